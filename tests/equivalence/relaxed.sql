-- Makes of the current schema one that checks nothing: every column is text, and what is left are the primary keys, the
-- foreign keys that act on other rows and the unique constraints that those refer to.
do $$
declare
    c record;
begin
    create temp table acting on commit drop as
        select conrelid::regclass as child, conname as name, pg_get_constraintdef(oid) as definition, conindid as index
        from pg_constraint where connamespace = current_schema()::regnamespace
        and contype = 'f' and (confdeltype not in ('a', 'r') or confupdtype not in ('a', 'r'));
    for c in select conrelid::regclass as child, conname from pg_constraint
        where connamespace = current_schema()::regnamespace and contype = 'f'
    loop
        execute format('alter table %s drop constraint %I', c.child, c.conname);
    end loop;
    for c in select conrelid::regclass as tab, conname from pg_constraint where connamespace = current_schema()::regnamespace
        and (contype in ('c', 'x') or contype = 'u' and conindid not in (select index from acting))
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
    for c in select * from acting
    loop
        execute format('alter table %s add constraint %I %s', c.child, c.name,
            regexp_replace(c.definition, '( DEFERRABLE( INITIALLY DEFERRED)?)?$', ' deferrable initially deferred'));
    end loop;
end $$;
