-- Finds messages that were taken so long ago that whoever took them must be dead.
-- KEYS  unacked_index, unacked_mutex, consumers
-- ARGV  seconds, how many
-- Returns their tags: none while another worker is at it, and none of a consumer that is known to live.
if redis.call('EXISTS', KEYS[2]) == 1 then
  return {}
end
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
local overdue = {}
for _, tag in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now - ARGV[1], 'LIMIT', 0, ARGV[2])) do
  local until_when = redis.call('ZSCORE', KEYS[3], string.match(tag, '^(.*):') or tag)
  if not until_when or tonumber(until_when) < now then
    overdue[#overdue + 1] = tag
  end
end
return overdue
