# What the warehouse may do: use the keys of its tenants, make, rotate and destroy them.
# A service whose administrators do the last by a job gets less; see docs/howto/keys-in-vault.md.
path "transit/keys/twh-*"              { capabilities = ["create", "read", "update", "delete"] }
path "transit/datakey/plaintext/twh-*" { capabilities = ["update"] }
path "transit/encrypt/twh-*"           { capabilities = ["update"] }
path "transit/decrypt/twh-*"           { capabilities = ["update"] }
path "transit/rewrap/twh-*"            { capabilities = ["update"] }
path "transit/hmac/twh-*"              { capabilities = ["update"] }
path "transit/verify/twh-*"            { capabilities = ["update"] }
