-- Any number of takes, settlements and renewals, one after another, in one call.
--
-- The arithmetic is that of _arithmetic.py, in doubles.  What is below 2^53 is exact, and for
-- x < 2^53 so are the floor and the ceiling of x / y, and x % y: the nearest integer is further
-- away than half a unit in the last place.  A product may pass 2^53 only where it is compared
-- with a smaller one, which rounding does not change.
--
-- It runs for every request: what is written out here instead of called, and the texts that are
-- used again instead of formatted, are a third of its time.
--
-- KEYS: as the operations meet them.  ARGV, for each operation:
--
--   head      a letter, and one for each charge:
--               t take   d look only   f force   s settle   r renew
--               u settle without a marker   v settle what has but slots
--               0 1 2    hard, soft, shadow; in the same hash as the charge before
--               a b c    the same, in the next hash, which is the next key
--               x y z    the same, of kind l: the next key is its sorted set
--   s, u, v   moment of the take, expiry; the marker is the first key of s
--   r         moment of the take
--   per hash  its fields, of which the first letter is the kind; then for each of them the cost
--             and the rule's numbers in one text, and for s, u and v what is to be added, or,
--             below zero, given back
--   kind l    lease id; limit, lease and longest hold in one text
--   @...      sets the clock, for tests
--
-- Replies words: the clock; then for each operation 1 or 0, done or not; -1 if the periods of a
-- calendar do not cover the clock; -2 and a word if a key holds what is not ours.  A take that is
-- 1 or 0, and a settlement that is 1, goes on with a word for each charge: + or -, whether it
-- fitted, and the state after; as it was found if nothing was written.

local KEYS, ARGV = KEYS, ARGV
local call, try, byte, match = redis.call, redis.pcall, string.byte, string.match
local arg, key, last = 1, 1, #ARGV
local now, clock, out, size

local STATE = '^(%d%d%d%d%d%d%d%d%d%d%d%d%d%d%d%d)(%d+)%.?(%d*)$'
local THREE = '^(%d+) (%d+) (%d+)$'
local FOUR = '^(%d+) (%d+) ?(%d*) ?(%d*)$'
local SIX = '^(%d+) (%d+) (%d+) (%d+) (%d+) (%d+)$'

-- A key lives as long as whatever in it matters longest.
local function keep(name, life, longer)
  if call('PTTL', name) < life then call('PEXPIRE', name, string.format('%.0f', longer)) end
end

-- Of a hash: the states, field by field, or the only one.  Of a sorted set: no field, but its
-- expiry and the lease's id; to free it, the id.
local function write(name, field, state, states, n, life, longer)
  if n == 0 then return end
  if n < 0 then
    call('ZREM', name, states)
    return
  end
  if not field then
    call('ZADD', name, state, states)
    call('ZREMRANGEBYSCORE', name, '-inf', clock)
  elseif n == 1 then
    call('HSET', name, field, state)
  else
    call('HSET', name, unpack(states, 1, 2 * n))
  end
  keep(name, life, longer)
end

repeat
  local head = ARGV[arg]
  local op, count = byte(head), #head - 1
  arg = arg + 1

  if op == 64 then
    clock = string.sub(head, 2)
    now = clock + 0
    if arg > last then return clock end
    head = ARGV[arg]
    op, count = byte(head), #head - 1
    arg = arg + 1
  elseif not now then
    local time = call('TIME')
    clock = time[1] .. string.sub('000000', #time[2] + 1) .. time[2]
    now = clock + 0
  end

  if op == 114 then -- r
    local at, held = ARGV[arg] + 0, ' 1'
    arg = arg + 1
    for _ = 1, count do
      local name, id = KEYS[key], ARGV[arg]
      local _, lease, hold = match(ARGV[arg + 1], THREE)
      local expiry, score = now + lease, try('ZSCORE', name, id)
      if at + hold < expiry then expiry = at + hold end
      if score and not score.err and score + 0 > now and expiry > now then
        call('ZADD', name, 'XX', string.format('%.0f', expiry), id)
        keep(name, lease / 1000 + 1001, lease / 500 + 1001)
      else
        held = ' 0'
      end
      key, arg = key + 1, arg + 2
    end
    if last < arg and not out then return clock .. held end
    out, size = out or {clock}, (size or 1) + 1
    out[size] = held
  else
    local settles = op == 115 or op > 116 -- s, u, v
    local marker, at, expires
    if settles then
      if op == 115 then marker, key = KEYS[key], key + 1 end
      at, expires = ARGV[arg] + 0, ARGV[arg + 1] + 0
      arg = arg + 2
    end
    local admitted, stale, failure = true, false, nil
    -- What is to be replied if nothing is written, and if it is.
    local before, after = '', ''
    -- The hash or sorted set in hand, what is to be written to it, and those already done with.
    local name, first, state, states, n, life, longer, groups = nil, nil, nil, nil, 0, 0, 0, nil
    local i, field, found, from, freed = 1, 0, nil, 0, 0

    -- Decide; nothing is written.
    while i <= count do
      local mode = byte(head, i + 1)
      local fits, raw, new = true, nil, nil
      if mode >= 97 then -- the next key
        if name then
          groups = groups or {}
          groups[#groups + 1] = {name, first, state, states, n, life, longer}
        end
        name, first, states, n, life, longer = KEYS[key], nil, nil, 0, 0, 0
        key = key + 1
      end
      if mode >= 120 then -- x, y, z
        mode = mode - 120
        local lease, limit, lasts = ARGV[arg], match(ARGV[arg + 1], THREE)
        raw = try('ZCOUNT', name, '(' .. clock, '+inf')
        if type(raw) == 'table' then
          failure, raw, new = raw.err, 0, 0
        elseif settles then
          local score = call('ZSCORE', name, lease)
          new = raw
          if score and score + 0 > now then new, freed = raw - 1, freed + 1 end
          states, n = lease, -1
        else
          fits, new = raw < limit + 0, raw + 1
          if fits or mode ~= 2 or op == 102 then
            state, states, n = string.format('%.0f', now + lasts), lease, 1
            life = lasts / 1000 + 1001
            longer = life * 2
          else
            new = raw
          end
        end
        arg = arg + 2
      else
        if mode >= 97 then -- a, b, c
          mode, field, from = mode - 97, arg, i
          local to = i
          while to < count and byte(head, to + 2) <= 50 do to = to + 1 end
          arg = arg + to - i + 1
          if to == i then
            raw = try('HGET', name, ARGV[field])
            failure = raw and raw.err or failure
          else
            found = try('HMGET', name, unpack(ARGV, field, arg - 1))
            failure = found.err or failure
            raw = found[1]
            states = {false, false, false, false, false, false}
          end
        else
          mode, field = mode - 48, field + 1
          raw = found[i - from + 1]
        end

        local kind = byte(ARGV[field])
        local numbers, cost, one, two, three, four, five = ARGV[arg], nil, nil, nil, nil, nil, nil
        if kind == 99 then
          cost, one, two, three, four, five = match(numbers, SIX)
        else
          cost, one, two, three = match(numbers, FOUR)
        end
        cost, arg = cost + 0, arg + 1
        local back = false
        if settles then
          local more = ARGV[arg] + 0
          if more < 0 then back = -more else cost = more end
          arg = arg + 1
        end
        -- The state is t, a and b; the text of t that was read or is the clock's is used again.
        local t, a, b, start = 0, 0, 0, nil
        local lasts, slack = 0, 0
        if raw and not failure then
          start, a, b = match(raw, STATE)
          if start then
            t, a = start + 0, a + 0
            b = b ~= '' and b + 0 or 0
          else
            failure, a, b = 'STATE', 0, 0
          end
        else
          raw = ''
        end

        if kind == 114 then -- r
          local period, units, burst = one + 0, two + 0, three + 0
          local since = now - t
          if since < 0 then
            if -since * units >= burst * period then a = 0 end
            t, since, start = now, 0, clock
          end
          if since >= period then
            local into = since % period
            a = a - (since - into) / period * units
            if a < 0 then a = 0 end
            t, since, start = now - into, into, nil
          end
          local drained = since * units
          if a * period <= drained then t, a, since, drained, start = now, 0, 0, 0, clock end
          local most = drained / period
          most = most - most % 1 + 2 * burst
          if a > most then a = most end
          fits = (a + cost - burst) * period <= drained
          if not back then
            a = a + cost
            if a > most then a = most end
          else
            if cost > 2 * burst then cost = 2 * burst end
            drained = now > at and (now - at) * units or 0
            if drained < cost * period then
              drained = drained / period
              cost = cost - (drained - drained % 1)
              a = a - (back < cost and back or cost)
              if a < 0 then a = 0 end
            end
          end
          -- Twice, so that a limit that is lowered meanwhile finds it.
          lasts = a * period / units - since
          lasts = lasts > 0 and lasts / 500 + 1002 or 1002
          slack = lasts / 2
        elseif kind == 119 then -- w
          local limit, length = one + 0, two + 0
          local into = now % length
          local opens, ms = now - into, length / 1000
          if t == opens - length then
            a, b = 0, a
          elseif t < opens or t > opens + length then
            a, b = 0, 0
          end
          if t ~= opens then t, start = opens, nil end
          if a > 2 * limit then a = 2 * limit end
          if b > 2 * limit then b = 2 * limit end
          local weight = b * (ms - (into - into % 1000) / 1000) / ms
          local part = weight % 1
          if part > 0 then weight = weight - part + 1 end
          fits = a + weight + cost <= limit
          if not back then
            a = a + cost
            if a > 2 * limit then a = 2 * limit end
          elseif at >= t then
            a = a > back and a - back or 0
          elseif at >= t - length then
            b = b > back and b - back or 0
          end
          lasts = (2 * length - into) / 1000 + 1001
        elseif kind == 99 then -- c
          local opens, closes = three + 0, four + 0
          if now < opens then
            opens, closes = two + 0, opens
          elseif now >= closes then
            opens, closes = closes, five + 0
          end
          if now < opens or now >= closes then stale = true end
          if t < opens then t, a, b, start = now, 0, 0, clock end
          fits = a - b + cost <= one + 0
          if not back then
            a = a + cost
            if a > 9007199254740991 then a = 9007199254740991 end
          elseif at >= t then
            b = b + back
            if b > a then b = a end
          end
          lasts = (closes - now) / 1000 + 1001
        else -- n
          fits = a + cost <= one + 0
          if not back then a = a + cost else a = a > back and a - back or 0 end
          if a > 9007199254740991 then a = 9007199254740991 end
          start, lasts, slack = '1000000000000000', 34473600000, 86400000
        end
        -- In halves: whole numbers are written faster, and some machines have them up to 2^31.
        if not start then
          local low = t % 1e8
          start = string.format('%d%08d', (t - low) / 1e8, low)
        end
        new = a < 1e14 and start .. a or string.format('%s%.0f', start, a)
        if b > 0 then new = string.format('%s.%.0f', new, b) end

        if fits or mode ~= 2 or op == 102 or settles then
          n = n + 1
          if n == 1 then first, state = ARGV[field], new end
          if states then states[2 * n - 1], states[2 * n] = ARGV[field], new end
          if lasts > life then life = lasts end
          if lasts + slack > longer then longer = lasts + slack end
        else
          new = raw
        end
      end

      if fits then
        before, after = before .. ' +' .. raw, after .. ' +' .. new
      else
        before, after = before .. ' -' .. raw, after .. ' -' .. new
        if mode == 0 then admitted = false end
      end
      i = i + 1
    end

    local word
    if failure then
      word = ' -2 ' .. match(failure, '%w+')
    elseif not settles then
      admitted = admitted or op == 102
      if stale then
        word = ' -1'
      elseif not admitted then
        word = ' 0' .. before
      elseif op == 100 then
        word = ' 1' .. before
      end
    elseif now > expires then
      word = ' 0'
    elseif stale then
      word = marker and call('EXISTS', marker) == 1 and ' 0' or ' -1'
    elseif marker then
      -- The first to be written, and refused where memory is full: then nothing is.
      local life = string.format('%.0f', (expires - now) / 1000 + 1001)
      if not call('SET', marker, '', 'NX', 'PX', life) then word = ' 0' end
    elseif op == 118 and freed == 0 then
      word = ' 0'
    end
    if not word then
      for j = 1, groups and #groups or 0 do write(unpack(groups[j], 1, 7)) end
      if name then write(name, first, state, states, n, life, longer) end
      word = ' 1' .. after
    end
    if last < arg and not out then return clock .. word end
    out, size = out or {clock}, (size or 1) + 1
    out[size] = word
  end
until arg > last

return table.concat(out)
