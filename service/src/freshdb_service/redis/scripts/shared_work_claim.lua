-- Claim a duty, extend the claim, or release it.
--
-- KEYS  1 duty
-- ARGV  1 replica   2 duration in ms (0: release)
-- Returns 1 if the claim is (or was) this replica's, 0 if it is another's.
local whose = redis.call('GET', KEYS[1])
if whose and whose ~= ARGV[1] then
  return 0
end
if ARGV[2] == '0' then
  redis.call('DEL', KEYS[1])
else
  redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
end
return 1
