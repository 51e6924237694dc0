-- Takes messages for a consumer: what it gets stands among the unacknowledged ones before anybody has seen it.
-- KEYS  unacked, unacked_index, consumers, fences, lists in the order in which they are served
-- ARGV  consumer, number of the first message, how many, largest message, about how many bytes, for each list the end of
--       what is kept: `, "", "queue"]`
-- Returns [list, message or its size, ...]; nil if the consumer has been given up for dead.
local first, most = tonumber(ARGV[2]), tonumber(ARGV[3])
local largest, budget = tonumber(ARGV[4]), tonumber(ARGV[5])
if not redis.call('ZSCORE', KEYS[3], ARGV[1]) then
  return false
end
local fence = redis.call('HGET', KEYS[4], ARGV[1])
if fence and (fence == 'dead' or tonumber(fence) > first) then
  return false
end
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
local taken, kept, index, count = {}, {}, {}, 0
for list = 5, #KEYS do
  while count < most and budget > 0 do
    local message = redis.call('RPOP', KEYS[list])
    if not message then
      break
    end
    local tag = ARGV[1] .. ':' .. string.format('%.0f', first + count)
    local size = #message
    count = count + 1
    kept[2 * count - 1], kept[2 * count] = tag, '[' .. message .. ARGV[list + 1]
    index[2 * count - 1], index[2 * count] = now, tag
    taken[2 * count - 1] = list - 5
    if size > largest then
      taken[2 * count] = size
    else
      taken[2 * count] = message
      budget = budget - size
    end
  end
end
if count > 0 then
  redis.call('HSET', KEYS[1], unpack(kept))
  redis.call('ZADD', KEYS[2], unpack(index))
end
return taken
