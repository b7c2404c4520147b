"""The scripts of the queues: where a job waits, whose turn it is, and who has it in hand."""

from __future__ import annotations

from typing import Final

QUEUES: Final = """
local PREFIX, CLASSES = 'agent:jobs:', {'high', 'normal', 'low'}
local RUNNING, GROUP = PREFIX .. 'running', 'runners'

local function tools_of(tenant, class) return PREFIX .. 't:' .. tenant .. ':queue:' .. class end
local function lane_of(tenant, class, tool) return tools_of(tenant, class) .. ':' .. tool end

local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- After a change of a lane: its tool stands by the place of its first job, or not at all.
local function tidy(tenant, class, tool)
  local first = redis.call('ZRANGE', lane_of(tenant, class, tool), 0, 0, 'WITHSCORES')
  if first[1] then
    redis.call('ZADD', tools_of(tenant, class), first[2], tool)
    redis.call('SADD', PREFIX .. 'tenants', tenant)
    return
  end
  redis.call('ZREM', tools_of(tenant, class), tool)
  for _, other in ipairs(CLASSES) do
    if redis.call('EXISTS', tools_of(tenant, other)) == 1 then return end
  end
  redis.call('SREM', PREFIX .. 'tenants', tenant)
end

-- Let a job wait: behind the others, or before those of its lane.
local function enqueue(tenant, class, tool, item, where)
  local lane, place = lane_of(tenant, class, tool), redis.call('INCR', PREFIX .. 'place')
  if where == 'first' then
    local first = redis.call('ZRANGE', lane, 0, 0, 'WITHSCORES')
    if first[1] then place = first[2] - 1 end
  end
  if redis.call('ZADD', lane, place, item) == 1 then
    redis.call('HINCRBY', PREFIX .. 'waiting', class, 1)
  end
  tidy(tenant, class, tool)
end

local function dequeue(tenant, class, tool, item)
  if redis.call('ZREM', lane_of(tenant, class, tool), item) == 1 then
    redis.call('HINCRBY', PREFIX .. 'waiting', class, -1)
    tidy(tenant, class, tool)
  end
end

-- Take a job out of its runner's hand; its tenant has had the slot for that long.
local function release(entry)
  local found = redis.call('XRANGE', RUNNING, entry, entry)[1]
  if not found then return end
  local fields = {}
  for item = 1, #found[2], 2 do fields[found[2][item]] = found[2][item + 1] end
  local tenant = string.match(fields.job, '^[^/]*')
  local held_ms = math.max(now_ms() - tonumber(string.match(entry, '^%d+')), 1)
  redis.call('XACK', RUNNING, GROUP, entry)
  redis.call('XDEL', RUNNING, entry)
  if redis.call('HINCRBY', PREFIX .. 'held', tenant, -1) <= 0 then
    redis.call('HDEL', PREFIX .. 'held', tenant)
  end
  redis.call('HINCRBYFLOAT', PREFIX .. 'shares', tenant, held_ms / 1000 / tonumber(fields.weight))
end
"""

TAKE: Final = (
    QUEUES
    + """
-- ARGV: runner, most jobs, and as JSON: `weights` of tenants; `turns`, the classes in the order in which
-- they are asked at a tenant's starts; `rooms`, how many more calls of `OWNER/TOOL` (`/TOOL`: everyone's)
-- would start at once; `shared`, how many more of those in `sharing` together, or null; `others`, how many of
-- any other tool, if no process has announced it for `seen_ms`.
-- Returns 1 when jobs wait for tools that have no room, else 0, then entry, job, number and tool of each.
redis.pcall('XGROUP', 'CREATE', RUNNING, GROUP, '$', 'MKSTREAM')
local wanted, taken = cjson.decode(ARGV[3]), {0}
local rooms, shared, ELSEWHERE = wanted.rooms, wanted.shared, -1
if shared == cjson.null then shared = math.huge end
local now = tonumber(redis.call('HGET', PREFIX .. 'shares', '') or 0)

-- What each waiting tenant has: a heap, whose first is served first.
local tenants, names = {}, redis.call('SMEMBERS', PREFIX .. 'tenants')
for from = 1, #names, 1000 do
  local some = {unpack(names, from, math.min(from + 999, #names))}
  local function of(key) return redis.call('HMGET', PREFIX .. key, unpack(some)) end
  local held, had, turn = of('held'), of('shares'), of('turns')
  for place, name in ipairs(some) do
    tenants[#tenants + 1] = {
      name = name,
      weight = wanted.weights[name] or 1,
      held = tonumber(held[place] or 0),
      had = math.max(tonumber(had[place] or 0), now),
      turn = tonumber(turn[place] or 0),
    }
  end
end

local function first_served(one, other)
  local held, others = one.held / one.weight, other.held / other.weight
  if held ~= others then return held < others end
  if one.had ~= other.had then return one.had < other.had end
  return one.name < other.name
end

local function key_of(tenant, tool)
  if rooms['/' .. tool] then return '/' .. tool end
  local own = tenant .. '/' .. tool
  if not rooms[own] then
    local tools, seen = PREFIX .. 'tools', 0
    for _, name in ipairs({'/' .. tool, own}) do
      seen = math.max(seen, tonumber(redis.call('ZSCORE', tools, name) or 0))
    end
    rooms[own] = now_ms() - seen < wanted.seen_ms and ELSEWHERE or wanted.others
  end
  return own
end

local function next_of(tenant)
  for _, class in ipairs(wanted.turns[tenant.turn % #wanted.turns + 1]) do
    for _, tool in ipairs(redis.call('ZRANGE', tools_of(tenant.name, class), 0, -1)) do
      local key = key_of(tenant.name, tool)
      if rooms[key] > 0 and (shared > 0 or not wanted.sharing[key]) then return class, tool, key end
      if rooms[key] ~= ELSEWHERE then taken[1] = 1 end
    end
  end
end

local function sink(place)
  while true do
    local first = place
    for child = 2 * place, math.min(2 * place + 1, #tenants) do
      if first_served(tenants[child], tenants[first]) then first = child end
    end
    if first == place then return end
    tenants[place], tenants[first] = tenants[first], tenants[place]
    place = first
  end
end

for place = math.floor(#tenants / 2), 1, -1 do sink(place) end

local function choose()
  while tenants[1] do
    local class, tool, key = next_of(tenants[1])
    if class then return tenants[1], class, tool, key end
    tenants[1] = tenants[#tenants]
    tenants[#tenants] = nil
    sink(1)
  end
end

for _ = 1, tonumber(ARGV[2]) do
  local tenant, class, tool, key = choose()
  if not tenant then break end
  local item = redis.call('ZRANGE', lane_of(tenant.name, class, tool), 0, 0)[1]
  local id, number = string.match(item, '^(%S+) (%d+)$')
  local job = tenant.name .. '/' .. id
  local entry = redis.call(
    'XADD', RUNNING, '*', 'job', job, 'number', number, 'tool', tool, 'weight', tenant.weight)
  redis.call('XCLAIM', RUNNING, GROUP, ARGV[1], 0, entry, 'FORCE', 'JUSTID')
  dequeue(tenant.name, class, tool, item)
  redis.call('HINCRBY', PREFIX .. 'held', tenant.name, 1)
  redis.call('HSET', PREFIX .. 'shares', '', tenant.had, tenant.name, tenant.had)
  redis.call('HSET', PREFIX .. 'turns', tenant.name, (tenant.turn + 1) % #wanted.turns)
  tenant.held, tenant.turn = tenant.held + 1, tenant.turn + 1
  sink(1)
  rooms[key] = rooms[key] - 1
  if wanted.sharing[key] then shared = shared - 1 end
  for _, value in ipairs({entry, job, number, tool}) do taken[#taken + 1] = value end
end
return taken
"""
)

ANNOUNCE: Final = (
    QUEUES
    + """
-- ARGV: the tools of a process, `OWNER/TOOL`. Jobs of these are left to it by processes that lack them.
for _, tool in ipairs(ARGV) do redis.call('ZADD', PREFIX .. 'tools', now_ms(), tool) end
return 1
"""
)

RELEASE: Final = (
    QUEUES
    + """
-- ARGV: entry.
release(ARGV[1])
return 1
"""
)

PLACE: Final = (
    QUEUES
    + """
-- ARGV: tenant, class, tool, item. Returns how many jobs of the tenant and the class wait before it, or -1
-- when it does not wait.
local place = redis.call('ZSCORE', lane_of(ARGV[1], ARGV[2], ARGV[3]), ARGV[4])
if not place then return -1 end
local before = 0
for _, tool in ipairs(redis.call('ZRANGE', tools_of(ARGV[1], ARGV[2]), 0, -1)) do
  before = before + redis.call('ZCOUNT', lane_of(ARGV[1], ARGV[2], tool), '-inf', '(' .. place)
end
return before
"""
)

FORGET: Final = (
    QUEUES
    + """
-- ARGV: runner or '', milliseconds. Removes that runner if it holds nothing, else all that hold nothing and
-- were not seen for so long: one that is removed would take what it holds with it. Forgets tenants of which
-- no job waits or is held, and that have had no more than who comes anew.
local known = redis.pcall('XINFO', 'CONSUMERS', RUNNING, GROUP)
for _, fields in ipairs(known.err and {} or known) do
  local consumer = {}
  for item = 1, #fields, 2 do consumer[fields[item]] = fields[item + 1] end
  local gone = ARGV[1] == '' and consumer.idle > tonumber(ARGV[2]) or consumer.name == ARGV[1]
  if gone and consumer.pending == 0 then
    redis.call('XGROUP', 'DELCONSUMER', RUNNING, GROUP, consumer.name)
  end
end
redis.call('ZREMRANGEBYSCORE', PREFIX .. 'tools', '-inf', now_ms() - tonumber(ARGV[2]))
local shares = redis.call('HGETALL', PREFIX .. 'shares')
local now = tonumber(redis.call('HGET', PREFIX .. 'shares', '') or 0)
for item = 1, #shares, 2 do
  local name = shares[item]
  local idle = redis.call('SISMEMBER', PREFIX .. 'tenants', name) == 0
    and redis.call('HEXISTS', PREFIX .. 'held', name) == 0
  if name ~= '' and idle and tonumber(shares[item + 1]) <= now then
    redis.call('HDEL', PREFIX .. 'shares', name)
    redis.call('HDEL', PREFIX .. 'turns', name)
  end
end
return 1
"""
)

RENEW: Final = """
-- KEYS: job, running jobs. ARGV: runner, group, entry. Returns 0 when the entry is not this runner's any
-- more, 1, or 2 when the job is not to be run any more. Claiming one's own entry sets its idle time to 0.
local held = redis.pcall('XPENDING', KEYS[2], ARGV[2], ARGV[3], ARGV[3], 1)
if held.err or #held == 0 or held[1][2] ~= ARGV[1] then return 0 end
redis.call('XCLAIM', KEYS[2], ARGV[2], ARGV[1], 0, ARGV[3], 'JUSTID')
local phase = redis.call('HGET', KEYS[1], 'phase')
if phase == 'queued' or phase == 'running' then return 1 end
return 2
"""
