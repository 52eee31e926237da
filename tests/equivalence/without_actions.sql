-- Foreign keys of the current schema without the actions that reach other rows: no save is an acting save.
do $$
declare
    f record;
begin
    for f in select conrelid::regclass as child, conname, pg_get_constraintdef(oid) as definition
        from pg_constraint where connamespace = current_schema()::regnamespace and contype = 'f'
    loop
        execute format('alter table %s drop constraint %I', f.child, f.conname);
        execute format('alter table %s add constraint %I %s', f.child, f.conname,
            regexp_replace(f.definition, ' ON (DELETE|UPDATE) (CASCADE|SET NULL|SET DEFAULT)', '', 'g'));
    end loop;
end $$;
