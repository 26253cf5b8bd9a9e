-- Extend the TTL of a lease, after the control plane has stored it. Its deadline stays unchanged.
--
-- KEYS  1 limits (hash: lease -> "max ends at ms|ttl ms|principal")
-- ARGV  1 lease   2 TTL in ms
-- Returns 1 if the lease was known, else 0.
local limit = redis.call('HGET', KEYS[1], ARGV[1])
if not limit then
  return 0
end
local max_at, ttl, principal = string.match(limit, '^(%d+)|(%d+)|(.*)$')
ttl = math.max(tonumber(ttl), tonumber(ARGV[2]))
redis.call('HSET', KEYS[1], ARGV[1], string.format('%s|%.0f|%s', max_at, ttl, principal))
return 1
