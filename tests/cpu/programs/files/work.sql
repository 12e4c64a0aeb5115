-- SPDX-License-Identifier: GPL-2.0-or-later
pragma journal_mode = wal;
create table entry(id integer primary key, k integer, v real, name text, data blob);
create index entry_k on entry(k);
create index entry_name on entry(name collate nocase, v);
begin;
with recursive r(i, s) as (select 1, 12345 union all select i + 1, (s * 1103515245 + 12345) & 2147483647 from r where i < 60000)
insert into entry select i, s % 5000, s / 7.0, printf('name %x %08.3f', s, s / 1000.0), substr(hex(s * 31), 1, s % 9) from r;
commit;
select count(*), sum(k), printf('%.10e', sum(v)), max(name), min(name) from entry;
select k % 10, count(*), printf('%.12g', avg(v)), group_concat(distinct length(data)) from entry group by 1 order by 1;
update entry set v = v * 1.0000001 + k, name = upper(substr(name, 6)) where k between 1000 and 2500;
delete from entry where id % 7 = 3;
select sum(length(name)), printf('%.15g', total(v)) from entry;
select a.k, count(*) from entry a join entry b on a.k = b.k and a.id < b.id where a.k < 100 group by 1 order by 2 desc, 1 limit 20;
select k, row_number() over w, printf('%.9g', sum(v) over w) from entry where k < 40 window w as (partition by k order by id) order by k, id limit 200;
create virtual table words using fts5(body);
insert into words select name || ' ' || k from entry;
select count(*) from words where words match '1000 OR 12* OR 4999';
create table doc(j text);
insert into doc select json_object('id', id, 'k', k, 'list', json_array(k, v, name)) from entry where id < 5000;
select sum(json_extract(j, '$.k')), count(distinct json_extract(j, '$.list[2]')) from doc;
with recursive q(n, c) as (select 1, 1 union all select n + 1, c * 3 % 1000003 from q where n < 200000) select sum(c), max(c) from q;
with recursive xaxis(x) as (values(-2.0) union all select x + 0.05 from xaxis where x < 1.2),
 yaxis(y) as (values(-1.0) union all select y + 0.1 from yaxis where y < 1.0),
 m(iter, cx, cy, x, y) as (select 0, x, y, 0.0, 0.0 from xaxis, yaxis
  union all select iter + 1, cx, cy, x * x - y * y + cx, 2.0 * x * y + cy from m where (x * x + y * y) < 4.0 and iter < 28),
 m2(iter, cx, cy) as (select max(iter), cx, cy from m group by cx, cy),
 a(t) as (select group_concat(substr(' .+*#', 1 + min(iter / 7, 4), 1), '') from m2 group by cy)
select group_concat(rtrim(t), x'0a') from a;
vacuum;
reindex;
analyze;
