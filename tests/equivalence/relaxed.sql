-- Makes of the current schema one that checks nothing: every column is text, primary keys are all that is left of the constraints, and
-- what foreign keys did to other rows is done by triggers (a foreign key would check at once that what it refers to is unique).
do $$
declare
    c record;
begin
    create temp table act on commit drop as
        select f.confrelid::regclass as parent, f.conname as name, e.event,
            case e.act
                when 'c' then case e.event
                    when 'delete' then format('delete from %s', f.conrelid::regclass)
                    else format('update %s set %s', f.conrelid::regclass, k.new_key)
                end
                when 'n' then format('update %s set %s', f.conrelid::regclass, k.no_key)
                when 'd' then format('update %s set %s', f.conrelid::regclass, k.default_key)
            end || format(' where %s', k.matching) as statement,
            case e.event when 'update' then format('when (%s)', k.changed) end as condition
        from pg_constraint f
        cross join lateral (values ('delete', f.confdeltype), ('update', f.confupdtype)) e (event, act)
        cross join lateral (
            select string_agg(format('%I = old.%I', child.attname, parent.attname), ' and ') as matching,
                string_agg(format('%I = new.%I', child.attname, parent.attname), ', ') as new_key,
                string_agg(format('%I = null', child.attname), ', ') as no_key,
                string_agg(format('%I = default', child.attname), ', ') as default_key,
                string_agg(format('old.%1$I is distinct from new.%1$I', parent.attname), ' or ') as changed
            from unnest(f.conkey, f.confkey) as k (child, parent)
            join pg_attribute child on child.attrelid = f.conrelid and child.attnum = k.child
            join pg_attribute parent on parent.attrelid = f.confrelid and parent.attnum = k.parent
        ) k
        where f.connamespace = current_schema()::regnamespace and f.contype = 'f' and e.act in ('c', 'n', 'd');
    for c in select conrelid::regclass as tab, conname from pg_constraint
        where connamespace = current_schema()::regnamespace and contype in ('f', 'c', 'x', 'u') order by contype <> 'f'
    loop
        execute format('alter table %s drop constraint %I', c.tab, c.conname);
    end loop;
    for c in select a.attrelid::regclass as tab, a.attname, coalesce(a.attnum = any (i.indkey), false) as in_key
        from pg_attribute a join pg_class t on t.oid = a.attrelid left join pg_index i on i.indrelid = t.oid and i.indisprimary
        where t.relnamespace = current_schema()::regnamespace and t.relkind = 'r' and a.attnum > 0 and a.attidentity = ''
    loop
        execute format('alter table %s alter %I type text', c.tab, c.attname);
        if not c.in_key then
            execute format('alter table %s alter %I drop not null', c.tab, c.attname);
        end if;
    end loop;
    for c in select *, name || '_' || event as trigger from act
    loop
        execute format('create function %I() returns trigger language plpgsql as %L', c.trigger,
            format('begin %s; return null; end', c.statement));
        execute format('create trigger %I after %s on %s for each row %s execute function %I()', c.trigger, c.event, c.parent,
            c.condition, c.trigger);
    end loop;
end $$;
