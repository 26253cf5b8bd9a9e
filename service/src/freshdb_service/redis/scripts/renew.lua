-- A heartbeat: move a lease's deadline, never past its limit, never closer.
--
-- KEYS  1 deadlines (zset)   2 limits (hash: lease -> "max ends at ms|ttl ms|principal")
-- ARGV  1 lease   2 TTL in ms, 0 for the one it was granted with   3 principal, '' for anybody
-- Returns {1, granted TTL in ms, deadline in ms, limit in ms}; {0} not known here; {-1} somebody else's; {-2} over;
-- {-3} the TTL is longer than the lease's own: were Redis lost now, nobody would know of it.
local limit = redis.call('HGET', KEYS[2], ARGV[1])
local old = redis.call('ZSCORE', KEYS[1], ARGV[1])
if not limit or not old then
  return {0}
end
local max_at, ttl, principal = string.match(limit, '^(%d+)|(%d+)|(.*)$')
if ARGV[3] ~= '' and principal ~= ARGV[3] then
  return {-1}
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if tonumber(old) <= now then
  return {-2}
end
if ARGV[2] ~= '0' then
  if tonumber(ARGV[2]) > tonumber(ttl) then
    return {-3}
  end
  ttl = ARGV[2]
end
local deadline = math.max(tonumber(old), math.min(now + tonumber(ttl), tonumber(max_at)))
redis.call('ZADD', KEYS[1], string.format('%.0f', deadline), ARGV[1])
return {1, string.format('%.0f', deadline - now), string.format('%.0f', deadline), max_at}
