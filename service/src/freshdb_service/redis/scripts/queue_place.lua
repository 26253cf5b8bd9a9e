-- Length of the queues of pools, number of databases wanted, waiting time of the head, and position of a waiter.
--
-- KEYS  1 queue   2 presence   3 wanted   of the first pool; and so on
-- ARGV  1 waiter, or ''
-- Returns for each pool: position from 1 or 0, waiters, databases wanted, waiting time of the head in us.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local found = {}
for i = 1, #KEYS, 3 do
  local queue, presence, wanted_by = KEYS[i], KEYS[i + 1], KEYS[i + 2]
  local there = redis.call('ZRANGEBYSCORE', presence, '(' .. now, '+inf')
  local wanted, first = 0, nil
  for _, waiter in ipairs(there) do
    wanted = wanted + tonumber(redis.call('HGET', wanted_by, waiter) or '1')
    local ticket = tonumber(redis.call('ZSCORE', queue, waiter) or 'inf')
    first = math.min(first or ticket, ticket)
  end
  local rank = ARGV[1] ~= '' and redis.call('ZRANK', queue, ARGV[1])
  table.insert(found, rank and rank + 1 or 0)
  table.insert(found, #there)
  table.insert(found, wanted)
  table.insert(found, first and math.max(0, time[1] * 1000000 + time[2] - first) or 0)
end
return found
