-- Takes messages from among the unacknowledged ones and puts them, or others, somewhere else. Those that are not there
-- any more are left alone: somebody else has settled them.
-- KEYS  unacked, unacked_index
-- ARGV  for each message: tag, verb, and
--         back   list, message    behind the others
--         front  list, message    to be the next one
--         also   list, message    the message before goes here, too
--         dead   stream, reason, list, length of the end of what was kept
-- Returns how many were there.
local there, is_there, at = 0, false, 1
while at <= #ARGV do
  local tag, verb, key, value = ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3]
  local kept
  if verb == 'dead' then
    kept = redis.call('HGET', KEYS[1], tag)
  end
  if verb ~= 'also' then
    is_there = redis.call('HDEL', KEYS[1], tag) == 1
    redis.call('ZREM', KEYS[2], tag)
    there = there + (is_there and 1 or 0)
  end
  if is_there and verb == 'dead' then
    local message = string.sub(kept, 2, -1 - tonumber(ARGV[at + 5]))
    redis.call('XADD', key, '*', 'reason', value, 'list', ARGV[at + 4], 'message', message)
  elseif is_there and verb == 'front' then
    redis.call('RPUSH', key, value)
  elseif is_there then
    redis.call('LPUSH', key, value)
  end
  at = at + (verb == 'dead' and 6 or 4)
end
return there
