"""What Redis does in one step for reservations, so that no crash leaves half of a change."""

from __future__ import annotations

from typing import Final

# Writes reservations, all of them or none; the first may be new, the others are not.
# KEYS: due, look, expiry, pool, members of the pool, then for each: item, index, open, request (or '').
# ARGV: revision of the pool (or '' for any), whether there is a pool, channel, most open ones of a tenant,
# most of a tenant in all, value of the request, then for each: revision before, record, revision, member, id,
# due (ms), look (ms or ''), expiry (ms or '').
COMMIT: Final = """
local count = (#ARGV - 6) / 8
local function arg(number, place) return ARGV[6 + (number - 1) * 8 + place] end
local function key(number, place) return KEYS[5 + (number - 1) * 4 + place] end
local first = redis.call('hmget', KEYS[6], 'revision', 'record')
if first[1] == arg(1, 3) and first[2] == arg(1, 2) then return 'again' end
if arg(1, 1) == '0' then
  if key(1, 4) ~= '' then
    local seen = redis.call('get', key(1, 4))
    if seen then return 'seen' end
  end
  if redis.call('scard', key(1, 3)) >= tonumber(ARGV[4]) then return 'full' end
end
if ARGV[1] ~= '' and (redis.call('get', KEYS[4]) or '0') ~= ARGV[1] then return 'overtaken' end
for number = 1, count do
  local found = redis.call('hget', key(number, 1), 'revision') or '0'
  if found ~= arg(number, 1) then return 'overtaken' end
end
if ARGV[2] == '1' then redis.call('incr', KEYS[4]) end
for number = 1, count do
  local member = arg(number, 4)
  redis.call('hset', key(number, 1), 'record', arg(number, 2), 'revision', arg(number, 3))
  if arg(number, 1) == '0' then
    redis.call('hset', key(number, 1), 'request', key(number, 4))
    redis.call('zadd', key(number, 2), 0, arg(number, 5))
    if key(number, 4) ~= '' then redis.call('set', key(number, 4), ARGV[6]) end
  end
  if arg(number, 7) ~= '' then
    redis.call('zadd', KEYS[2], arg(number, 7), member)
  else
    redis.call('zrem', KEYS[2], member)
  end
  if arg(number, 8) == '' then
    redis.call('sadd', key(number, 3), arg(number, 5))
    redis.call('zadd', KEYS[1], arg(number, 6), member)
    if ARGV[2] == '1' then redis.call('sadd', KEYS[5], member) end
  else
    redis.call('srem', key(number, 3), arg(number, 5))
    redis.call('zrem', KEYS[1], member)
    redis.call('zadd', KEYS[3], arg(number, 8), member)
    if ARGV[2] == '1' then redis.call('srem', KEYS[5], member) end
  end
  redis.call('publish', ARGV[3], member)
end
if arg(1, 1) == '0' and redis.call('zcard', key(1, 2)) > tonumber(ARGV[5]) then
  -- The oldest that has ended goes before its time; one that is open never does.
  local before = -1 - #arg(1, 5)
  for _, id in ipairs(redis.call('zrange', key(1, 2), 0, ARGV[4])) do
    if redis.call('sismember', key(1, 3), id) == 0 then
      local item = string.sub(key(1, 1), 1, before) .. id
      local request = redis.call('hget', item, 'request')
      if request and request ~= '' then redis.call('del', request) end
      redis.call('del', item)
      redis.call('zrem', key(1, 2), id)
      redis.call('zrem', KEYS[3], string.sub(arg(1, 4), 1, before) .. id)
      break
    end
  end
end
return 'done'
"""

# Deletes an ended reservation whose retention is over.
# KEYS: expiry, item, index.  ARGV: present (ms), member, id.
DROP: Final = """
local score = redis.call('zscore', KEYS[1], ARGV[2])
if not score or tonumber(score) > tonumber(ARGV[1]) then return 0 end
local request = redis.call('hget', KEYS[2], 'request')
if request and request ~= '' then redis.call('del', request) end
redis.call('del', KEYS[2])
redis.call('zrem', KEYS[3], ARGV[3])
redis.call('zrem', KEYS[1], ARGV[2])
return 1
"""
