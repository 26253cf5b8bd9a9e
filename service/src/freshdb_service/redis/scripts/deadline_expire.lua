-- Take the leases whose deadline has passed, for the caller to end. Leases that a reaper took and did not settle within
-- `again` are returned to the next one.
--
-- KEYS  1 deadlines (zset)   2 expiring (zset: lease -> taken at, ms)   3 epoch (string: run id of the Redis that the
--       deadlines were written to)
-- ARGV  1 maximum number   2 again, in ms   3 run id of the Redis that the caller used before, or ''
-- Returns {"1", run id, lease, lease, ...}, or {"0", run id} if Redis has restarted or failed over since, and may be out
-- of date.
local run_id = string.match(redis.call('INFO', 'server'), 'run_id:(%w+)')
if redis.call('GET', KEYS[3]) ~= run_id or (ARGV[3] ~= '' and ARGV[3] ~= run_id) then
  return {'0', run_id}
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local stale = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now - tonumber(ARGV[2]), 'LIMIT', 0, ARGV[1])
local due = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, ARGV[1])
local taken = {'1', run_id}
for _, leases in ipairs({stale, due}) do
  for _, lease in ipairs(leases) do
    redis.call('ZREM', KEYS[1], lease)
    redis.call('ZADD', KEYS[2], now, lease)
    taken[#taken + 1] = lease
  end
end
return taken
