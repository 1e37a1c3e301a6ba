#!/bin/sh
# Fills the folder `secrets` beside this file; what is there stays as it is.
# The folder is the user's alone.  The files in it can be read by all, since each container
# runs as another user and sees the ones that are mounted into it, and no others.
set -eu
umask 022
cd "$(dirname "$0")"
mkdir -p secrets
chmod 700 secrets

for name in administrator_password demo_password grafana_admin_password metrics_token \
    postgres_password redis_password warehouse_administrator_password warehouse_app_password \
    warehouse_directory_password warehouse_owner_password warehouse_support_password; do
  [ -s "secrets/$name" ] || openssl rand -hex 24 > "secrets/$name"
done

[ -s secrets/redis_conf ] || cat > secrets/redis_conf <<CONF
requirepass $(cat secrets/redis_password)
dir /data
appendonly yes
maxmemory 256mb
maxmemory-policy noeviction
CONF

if [ ! -s secrets/openbao_key ]; then
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 365 \
    -subj /CN=openbao -addext subjectAltName=DNS:openbao,IP:127.0.0.1 \
    -addext keyUsage=critical,digitalSignature,keyCertSign \
    -keyout secrets/openbao_key -out secrets/openbao_certificate 2> /dev/null
  cp secrets/openbao_certificate secrets/openbao_ca
  chmod 644 secrets/openbao_key
fi
