-- The waiters of a pool in their order, without those that have gone.
--
-- KEYS  1 queue   2 presence   3 wanted   4 who
-- ARGV  1 maximum number
-- Returns the current instant (us), and then ticket, databases wanted, who (or ''); and so on.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local found = {string.format('%d%06d', time[1], time[2])}
local queue = redis.call('ZRANGE', KEYS[1], 0, tonumber(ARGV[1]) - 1, 'WITHSCORES')
for i = 1, #queue, 2 do
  if tonumber(redis.call('ZSCORE', KEYS[2], queue[i]) or '0') > now then
    table.insert(found, queue[i + 1])
    table.insert(found, redis.call('HGET', KEYS[3], queue[i]) or '1')
    table.insert(found, redis.call('HGET', KEYS[4], queue[i]) or '')
  end
end
return found
