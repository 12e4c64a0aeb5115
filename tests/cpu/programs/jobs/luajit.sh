# A tracing compiler: with it and without.
# SPDX-License-Identifier: GPL-2.0-or-later
# timeout: 120
set -e
luajit "$FILES/work.lua"
luajit -joff "$FILES/work.lua"
luajit -O1 "$FILES/work.lua"
luajit -Ohotloop=2,hotexit=1 "$FILES/work.lua"
