#!/bin/sh
# Transit, the policy, and a token with it, which is all that is printed.
# Run in the container; the root token is the first line of its input.
set -eu
read -r BAO_TOKEN
export BAO_TOKEN
{
  bao secrets list -format=json | grep -q '"transit/"' || bao secrets enable transit
  bao write transit/cache-config size=20000
  bao write transit/config/keys disable_upsert=true
  bao write transit/keys/twh-canary-health type=aes256-gcm96 derived=true
  bao policy write warehouse /openbao/set-up/warehouse.hcl
} >&2
exec bao token create -policy=warehouse -period=24h -orphan -field=token
