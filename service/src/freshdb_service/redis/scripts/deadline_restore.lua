-- Restore deadlines that Redis has lost: a full TTL from now, within the limit of each lease. Leases that have ended in the
-- meantime are skipped.
--
-- KEYS  1 deadlines (zset)   2 limits (hash)   3 epoch (string)   4 expiring (zset)   5 over (zset)
-- ARGV  1 run id to store with the last call, or ''   2 "1": also replace existing deadlines
--       3.. lease, TTL in ms, rest of its maximum lifetime in ms, principal; and so on
-- Returns the number of written deadlines.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local written = 0
for i = 3, #ARGV, 4 do
  local lease = ARGV[i]
  local known = redis.call('ZSCORE', KEYS[1], lease) or redis.call('ZSCORE', KEYS[4], lease)
  if not redis.call('ZSCORE', KEYS[5], lease) and (ARGV[2] == '1' or not known) then
    local max_at = now + math.max(0, tonumber(ARGV[i + 2]))
    local deadline = math.min(now + tonumber(ARGV[i + 1]), max_at)
    redis.call('ZADD', KEYS[1], string.format('%.0f', deadline), lease)
    redis.call('ZREM', KEYS[4], lease)
    redis.call('HSET', KEYS[2], lease, string.format('%.0f|%.0f|%s', max_at, ARGV[i + 1], ARGV[i + 3]))
    written = written + 1
  end
end
if ARGV[1] ~= '' then
  redis.call('SET', KEYS[3], ARGV[1])
end
return written
