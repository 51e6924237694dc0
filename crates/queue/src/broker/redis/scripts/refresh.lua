-- Says of messages that whoever took them still has them.
-- KEYS  unacked_index
-- ARGV  tags
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
for _, tag in ipairs(ARGV) do
  redis.call('ZADD', KEYS[1], 'XX', now, tag)
end
return 0
