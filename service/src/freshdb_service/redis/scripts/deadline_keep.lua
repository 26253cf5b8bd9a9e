-- Keep a lease for inspection: set its deadline, counted from now, and extend its limit to it.
--
-- KEYS  1 deadlines (zset)   2 limits (hash: lease -> "max ends at ms|ttl ms|principal")
-- ARGV  1 lease   2 TTL in ms
-- Returns 1 if the lease was known, else 0.
local limit = redis.call('HGET', KEYS[2], ARGV[1])
if not limit then
  return 0
end
local max_at, principal = string.match(limit, '^(%d+)|%d+|(.*)$')
local time = redis.call('TIME')
local deadline = time[1] * 1000 + math.floor(time[2] / 1000) + tonumber(ARGV[2])
redis.call('ZADD', KEYS[1], string.format('%.0f', deadline), ARGV[1])
redis.call('HSET', KEYS[2], ARGV[1],
  string.format('%.0f|%.0f|%s', math.max(tonumber(max_at), deadline), ARGV[2], principal))
return 1
