"""
What a statement or command may be called in public: a keyword out of a closed list, a table.

Statements contain values, and values are secrets.  So nothing of a statement is
taken but its first keyword, if it is a known one, and the name that stands
where the grammar has a table and nothing else.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

__all__ = ["OTHER_OPERATION", "read_command", "read_statement"]

OTHER_OPERATION: Final = "_OTHER"
"""
What a keyword or command is called that is not in the list.
"""

_SQL = """
    ABORT ALTER ANALYZE BEGIN CALL CHECKPOINT CLOSE CLUSTER COMMENT COMMIT COPY CREATE
    DEALLOCATE DECLARE DELETE DISCARD DO DROP END EXECUTE EXPLAIN FETCH GRANT IMPORT INSERT
    LISTEN LOAD LOCK MERGE MOVE NOTIFY PRAGMA PREPARE REASSIGN REFRESH REINDEX RELEASE REPLACE
    RESET REVOKE ROLLBACK SAVEPOINT SECURITY SELECT SET SHOW START TABLE TRUNCATE UNLISTEN
    UPDATE USE VACUUM VALUES WITH
"""
_REDIS = """
    ACL APPEND ASKING AUTH BGREWRITEAOF BGSAVE BITCOUNT BITFIELD BITFIELD_RO BITOP BITPOS BLMOVE
    BLMPOP BLPOP BRPOP BRPOPLPUSH BZMPOP BZPOPMAX BZPOPMIN CLIENT CLUSTER COMMAND CONFIG COPY
    DBSIZE DECR DECRBY DEL DISCARD DUMP ECHO EVAL EVALSHA EVALSHA_RO EVAL_RO EXEC EXISTS EXPIRE
    EXPIREAT EXPIRETIME FCALL FCALL_RO FLUSHALL FLUSHDB FUNCTION GEOADD GEODIST GEOHASH GEOPOS
    GEORADIUS GEORADIUSBYMEMBER GEOSEARCH GEOSEARCHSTORE GET GETBIT GETDEL GETEX GETRANGE GETSET
    HDEL HELLO HEXISTS HEXPIRE HEXPIREAT HGET HGETALL HGETDEL HGETEX HINCRBY HINCRBYFLOAT HKEYS
    HLEN HMGET HMSET HPERSIST HPEXPIRE HPTTL HRANDFIELD HSCAN HSET HSETEX HSETNX HSTRLEN HTTL
    HVALS INCR INCRBY INCRBYFLOAT INFO KEYS LASTSAVE LATENCY LCS LINDEX LINSERT LLEN LMOVE LMPOP
    LPOP LPOS LPUSH LPUSHX LRANGE LREM LSET LTRIM MEMORY MGET MIGRATE MODULE MONITOR MOVE MSET
    MSETNX MULTI OBJECT PERSIST PEXPIRE PEXPIREAT PEXPIRETIME PFADD PFCOUNT PFMERGE PING PSETEX
    PSUBSCRIBE PTTL PUBLISH PUBSUB PUNSUBSCRIBE QUIT RANDOMKEY READONLY READWRITE RENAME
    RENAMENX REPLICAOF RESET RESTORE ROLE RPOP RPOPLPUSH RPUSH RPUSHX SADD SAVE SCAN SCARD
    SCRIPT SDIFF SDIFFSTORE SELECT SET SETBIT SETEX SETNX SETRANGE SHUTDOWN SINTER SINTERCARD
    SINTERSTORE SISMEMBER SLOWLOG SMEMBERS SMISMEMBER SMOVE SORT SORT_RO SPOP SPUBLISH
    SRANDMEMBER SREM SSCAN SSUBSCRIBE STRLEN SUBSCRIBE SUNION SUNIONSTORE SUNSUBSCRIBE SWAPDB
    TIME TOUCH TTL TYPE UNLINK UNSUBSCRIBE UNWATCH WAIT WAITAOF WATCH XACK XADD XAUTOCLAIM
    XCLAIM XDEL XGROUP XINFO XLEN XPENDING XRANGE XREAD XREADGROUP XREVRANGE XSETID XTRIM ZADD
    ZCARD ZCOUNT ZDIFF ZDIFFSTORE ZINCRBY ZINTER ZINTERCARD ZINTERSTORE ZLEXCOUNT ZMPOP ZMSCORE
    ZPOPMAX ZPOPMIN ZRANDMEMBER ZRANGE ZRANGEBYLEX ZRANGEBYSCORE ZRANGESTORE ZRANK ZREM
    ZREMRANGEBYLEX ZREMRANGEBYRANK ZREMRANGEBYSCORE ZREVRANGE ZREVRANGEBYLEX ZREVRANGEBYSCORE
    ZREVRANK ZSCAN ZSCORE ZUNION ZUNIONSTORE
"""

_KEYWORDS = frozenset(_SQL.split())
_COMMANDS = frozenset(_REDIS.split())

# How much of a statement is looked at; the longest name of a table is 63 bytes, thrice.
_HEAD = 512
_REMEMBERED = 1024
# Before the first keyword: space, comments, parentheses.
_LEAD = re.compile(r"(?:[\s(;]|--[^\n]*\n|/\*.*?\*/)*", re.DOTALL)
_WORD = re.compile(r"[A-Za-z_]+")
_PART = r'(?:[A-Za-z_]\w*|"[A-Za-z_]\w*")'
_NAME = rf"({_PART}(?:\.{_PART}){{0,2}})(?![\w\"'.$])"
_TARGETS: Final = {
    "INSERT": re.compile(rf"\s+INTO\s+{_NAME}", re.IGNORECASE | re.ASCII),
    "MERGE": re.compile(rf"\s+INTO\s+(?:ONLY\s+)?{_NAME}", re.IGNORECASE | re.ASCII),
    "DELETE": re.compile(rf"\s+FROM\s+(?:ONLY\s+)?{_NAME}", re.IGNORECASE | re.ASCII),
    "UPDATE": re.compile(rf"\s+(?:ONLY\s+)?{_NAME}", re.IGNORECASE | re.ASCII),
    "TRUNCATE": re.compile(rf"\s+(?:TABLE\s+)?(?:ONLY\s+)?{_NAME}", re.IGNORECASE | re.ASCII),
    "COPY": re.compile(rf"\s+{_NAME}", re.IGNORECASE | re.ASCII),
    # Up to FROM there may be no text, no comment and no dollar quote, in which another
    # FROM could stand; of quoted names, which MySQL has texts in, single words only.
    "SELECT": re.compile(
        rf"""\s(?:[^'"$/\-`\\]|"\w+")*?\sFROM\s+(?:ONLY\s+)?{_NAME}(?!\s*\()""",
        re.IGNORECASE | re.ASCII,
    ),
}


def read_statement(statement: object) -> tuple[str, str]:
    """
    The operation of a SQL statement, and its first table where that can be told for sure.

        >>> read_statement("SELECT name FROM shop.items WHERE id = 4711")
        ('SELECT', 'shop.items')
        >>> read_statement("SELECT 'from memory'")
        ('SELECT', '')
        >>> read_statement("hunter2")
        ('_OTHER', '')

    Args:
        statement: As text or bytes; of anything else nothing is known.
    """
    if isinstance(statement, str):
        return _read(statement[:_HEAD])
    if isinstance(statement, bytes):
        return _read(statement[:_HEAD].decode("latin-1"))
    return OTHER_OPERATION, ""


def read_command(command: object) -> str:
    """
    The name of a Redis command, without a subcommand and arguments.

        >>> read_command(b"get"), read_command("CONFIG SET"), read_command("hunter2")
        ('GET', 'CONFIG', '_OTHER')

    Args:
        command: The first argument of a call, as text or bytes.
    """
    if isinstance(command, str) and command in _COMMANDS:  # as nearly all of them are
        return command
    if isinstance(command, bytes):
        command = command[:_HEAD].decode("latin-1")
    if not isinstance(command, str):
        return OTHER_OPERATION
    word = command[:_HEAD].partition(" ")[0].upper()
    return word if word in _COMMANDS else OTHER_OPERATION


@lru_cache(_REMEMBERED)
def _read(head: str) -> tuple[str, str]:
    start = _LEAD.match(head)
    word = _WORD.match(head, start.end() if start else 0)
    operation = word[0].upper() if word else ""
    if word is None or operation not in _KEYWORDS:
        return OTHER_OPERATION, ""
    target = _TARGETS.get(operation)
    found = target.match(head, word.end()) if target else None
    # A name at the very end may have been cut there.
    if found is None or (len(head) == _HEAD and found.end() == _HEAD):
        return operation, ""
    name = found[1].replace('"', "")
    return operation, "" if name.upper() in _KEYWORDS else name
