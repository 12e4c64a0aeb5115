-- SPDX-License-Identifier: GPL-2.0-or-later
local bit, ffi = require 'bit', require 'ffi'
local seed = 12345
local function random() seed = bit.band(bit.tobit(seed * 1103 + 12345), 0x7fffffff) return seed end
local function hash(h, v) return bit.tobit(bit.bxor(bit.rol(h, 5), v) * 31 % 2147483647) end
local function numbers() local h = 1 for i = 1, 2000000 do h = hash(h, bit.band(i * 7, 0xffff)) if h % 3 == 0 then h = h + i % 11 end end return h end
local function floats() local s = 0 for i = 1, 500000 do s = s + math.sin(i) / i + math.sqrt(i) - math.floor(s / 3) % 5 + (i % 2.5) ^ 2 end return string.format('%.17g', s) end
local function tables() local t, h = {}, 0 for i = 1, 100000 do local k = random() % 1000 t[k] = (t[k] or 0) + i if i % 13 == 0 then t[random() % 1000] = nil end end for k = 0, 999 do h = hash(h, (t[k] or 7) % 65536) end return h end
local function strings() local p = {} for i = 1, 3000 do p[#p + 1] = string.format('%x-%s', random(), string.rep('ab', i % 7)) end local s = table.concat(p, ' ') local n = 0 for w in s:gmatch('%x+%-ab') do n = n + #w end return n .. ' ' .. select(2, s:gsub('a(b)', '%1')) .. ' ' .. #s end
ffi.cdef 'typedef struct { int32_t a; double d; uint8_t b[16]; int64_t l; } Thing;'
local function foreign() local a, s = ffi.new('Thing[100]'), 0LL for i = 0, 300000 do local t = a[i % 100] t.a = t.a + i t.d = t.d * 0.5 + i t.b[i % 16] = i % 256 t.l = t.l * 3LL + t.a s = s + t.l % 1009LL + t.b[(i * 3) % 16] end return tostring(s) .. ' ' .. a[7].d end
local function coroutines() local h = 0 local c = coroutine.wrap(function() for i = 1, 200000 do coroutine.yield(i * i % 1013) end end) for i = 1, 200000 do h = hash(h, c()) end return h end
local function sorted() local t = {} for i = 1, 30000 do t[i] = random() end table.sort(t, function(a, b) return a % 1000 < b % 1000 or a % 1000 == b % 1000 and a < b end) local h = 0 for i = 1, 30000 do h = hash(h, t[i] % 65536) end return h end
local function closures() local f = {} for i = 1, 50 do local n = i f[i] = function(x) n = (n * 5 + x) % 9973 return n end end local h = 0 for i = 1, 300000 do h = h + f[i % 50 + 1](i) if not pcall(function() if i % 1000 == 0 then error('x') end end) then h = h + 1 end end return h end
for _, f in ipairs { numbers, floats, tables, strings, foreign, coroutines, sorted, closures } do for round = 1, 2 do seed = 12345 print(f()) end end
