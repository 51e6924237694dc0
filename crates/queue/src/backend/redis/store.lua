-- Stores results and tells those who wait for them, unless the task has succeeded before: that is final.
-- ARGV  seconds to keep them (0: for ever), then for each result: key, document
local function has_succeeded(key)
  local head = redis.call('GETRANGE', key, 0, 63)
  if head == '' then
    return false
  end
  if string.match(head, '^%s*{%s*"status"%s*:') then
    return string.match(head, '^%s*{%s*"status"%s*:%s*"SUCCESS"') ~= nil
  end
  if string.byte(head) == 123 then
    local is_json, document = pcall(cjson.decode, redis.call('GET', key))
    return is_json and type(document) == 'table' and document.status == 'SUCCESS'
  end
  -- In pickle and msgpack the name stands as it is, and a few bytes that are no letters stand before the value.
  return string.match(head, 'status[^%w_]?[^%w_]?[^%w_]?[^%w_]?SUCCESS') ~= nil
end
for at = 2, #ARGV, 2 do
  local key, document = ARGV[at], ARGV[at + 1]
  if not has_succeeded(key) then
    if ARGV[1] == '0' then
      redis.call('SET', key, document)
    else
      redis.call('SETEX', key, ARGV[1], document)
    end
    redis.call('PUBLISH', key, document)
  end
end
return 0
