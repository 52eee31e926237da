-- Every kind of constraint that saves can meet, in two islands that no foreign key joins (so that each may have a lane).
-- No triggers; no volatile default but the identity, which shows the order of appends.

create table guilds (
    id int primary key,
    tag varchar(8) unique,
    motto text not null default 'onward',
    points int not null default 0 check (points >= 0),
    leader int
);

create table players (
    id int primary key,
    name text not null unique,
    guild int references guilds on delete set null,
    mentor int references players on delete set null,
    level int not null default 1 check (level between 1 and 20),
    rank int unique deferrable initially immediate
);

alter table guilds add constraint guilds_leader_fkey foreign key (leader) references players on delete set null deferrable initially deferred;

create table items (
    owner int not null references players on delete cascade,
    slot int not null,
    kind text not null default 'sword',
    seal int unique deferrable initially deferred,
    primary key (owner, slot)
);

create table runes (
    owner int not null,
    slot int not null,
    name text not null,
    power int not null default 1 check (power > 0),
    primary key (owner, slot, name),
    foreign key (owner, slot) references items on delete cascade
);

create table treaties (
    a int not null references guilds on delete restrict,
    b int not null references guilds deferrable initially deferred,
    terms text default 'peace',
    primary key (a, b),
    check (a < b)
);

create table banners (
    id int primary key,
    tag varchar(8) default 'none' references guilds (tag) on update cascade on delete set default,
    color text unique deferrable initially immediate
);

create table events (
    number bigint generated always as identity,
    player int references players on delete cascade,
    name text references players (name) on update set null on delete set null,
    what text not null,
    points int check (points < 100)
);

create table rooms (
    id int primary key,
    label text unique,
    floor int,
    beds int not null default 1 check (beds > 0),
    constraint rooms_floor_once exclude (floor with =) deferrable initially deferred
);

create table bookings (
    id int primary key,
    room int not null references rooms on delete restrict,
    during int4range not null,
    constraint bookings_no_overlap exclude using gist (int4range(room, room, '[]') with =, during with &&)
);
