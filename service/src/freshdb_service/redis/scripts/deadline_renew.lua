-- Heartbeats: extend deadlines, up to the limit of each lease. A deadline never becomes earlier.
--
-- KEYS  1 deadlines (zset)   2 limits (hash: lease -> "max ends at ms|ttl ms|principal")
--       3 epoch (string: run id of the Redis that the deadlines were written to)
-- ARGV  1 run id of the Redis that the caller used before, or ''
--       2.. lease, TTL in ms (0 for that of the lease), principal ('' for any); and so on
-- Returns for each {1, granted TTL in ms, deadline in ms, limit in ms, rest of the former TTL in ms}, or {0} unknown lease,
-- {-1} lease of another principal, {-2} lease has ended, {-3} TTL longer than that of the lease, which would be lost with
-- Redis, {-4} Redis has restarted or failed over since, and may be out of date.
local run_id = string.match(redis.call('INFO', 'server'), 'run_id:(%w+)')
local forgotten = redis.call('GET', KEYS[3]) ~= run_id or (ARGV[1] ~= '' and ARGV[1] ~= run_id)
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local function renewed(lease, asked_ttl, asked_principal)
  if forgotten then
    return {-4}
  end
  local limit = redis.call('HGET', KEYS[2], lease)
  local old = redis.call('ZSCORE', KEYS[1], lease)
  if not limit or not old then
    return {0}
  end
  local max_at, ttl, principal = string.match(limit, '^(%d+)|(%d+)|(.*)$')
  if asked_principal ~= '' and principal ~= asked_principal then
    return {-1}
  end
  if tonumber(old) <= now then
    return {-2}
  end
  if asked_ttl ~= '0' then
    if tonumber(asked_ttl) > tonumber(ttl) then
      return {-3}
    end
    ttl = asked_ttl
  end
  local deadline = math.max(tonumber(old), math.min(now + tonumber(ttl), tonumber(max_at)))
  redis.call('ZADD', KEYS[1], string.format('%.0f', deadline), lease)
  local left = string.format('%.0f', tonumber(old) - now)
  return {1, string.format('%.0f', deadline - now), string.format('%.0f', deadline), max_at, left}
end

local answers = {}
for i = 2, #ARGV, 3 do
  answers[#answers + 1] = renewed(ARGV[i], ARGV[i + 1], ARGV[i + 2])
end
return answers
