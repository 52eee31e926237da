//! The objects: customers, their orders, the lines of those.

use anyhow::Context;

use super::ledger::Ledger;
use crate::{client::Save, sandbox::Database};

pub(super) const SCHEMA: &str = "
    create table customers (
        id bigint primary key,
        name text not null,
        balance numeric(12, 2) not null default 0,
        version bigint not null
    );
    create table orders (
        id bigint primary key,
        customer_id bigint not null references customers,
        status text not null default 'open',
        placed_at timestamptz not null default now(),
        version bigint not null
    );
    create table order_lines (
        order_id bigint not null references orders,
        line integer not null,
        product text not null,
        quantity integer not null default 1,
        version bigint not null,
        primary key (order_id, line)
    )";

const CUSTOMERS: usize = 500;
const ORDERS: usize = 1_500;
const LINES_PER_ORDER: usize = 2;
/// Objects are numbered through: customers, orders, lines. So whoever saves them in order saves parents first.
pub(super) const COUNT: usize = CUSTOMERS + ORDERS + ORDERS * LINES_PER_ORDER;

/// One object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Object {
    Customer(usize),
    Order(usize),
    Line { order: usize, line: usize },
}

impl Object {
    fn numbered(number: usize) -> Self {
        match number {
            customer if customer < CUSTOMERS => Self::Customer(customer),
            order if order < CUSTOMERS + ORDERS => Self::Order(order - CUSTOMERS),
            line => {
                let line = line - CUSTOMERS - ORDERS;
                Self::Line { order: line % ORDERS, line: line / ORDERS + 1 }
            }
        }
    }
}

/// The save that takes an object to a version: the first names all columns, later ones those that change.
pub(super) fn save(number: usize, version: u64) -> Save {
    match Object::numbered(number) {
        Object::Customer(id) if version == 1 => {
            Save::set("customers", [id.to_string()], format!(r#"{{"name":"Customer {id}","balance":0,"version":1}}"#))
        }
        Object::Customer(id) => Save::set("customers", [id.to_string()], format!(r#"{{"balance":{version}.25,"version":{version}}}"#)),
        Object::Order(id) if version == 1 => {
            Save::set("orders", [id.to_string()], format!(r#"{{"customer_id":{},"status":"open","version":1}}"#, id % CUSTOMERS))
        }
        Object::Order(id) => Save::set("orders", [id.to_string()], format!(r#"{{"status":"packed {version} times","version":{version}}}"#)),
        Object::Line { order, line } => Save::set(
            "order_lines",
            [order.to_string(), line.to_string()],
            format!(r#"{{"product":"Product {line}","quantity":{},"version":{version}}}"#, version % 10 + 1),
        ),
    }
}

/// What Postgres holds beside what was acknowledged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Difference {
    pub(super) lost: u64,
    pub(super) stale: u64,
}

/// Reads every object.
pub(super) async fn compare(database: &Database, ledger: &Ledger) -> anyhow::Result<Difference> {
    let mut stored = vec![None; COUNT];
    let query = format!(
        "select id, version from customers
         union all select {CUSTOMERS} + id, version from orders
         union all select {CUSTOMERS} + {ORDERS} + (line - 1) * {ORDERS} + order_id, version from order_lines"
    );
    for row in database.rows(&query).await.context("read the objects back")? {
        let [Some(number), Some(version)] = row.as_slice() else { anyhow::bail!("an object without a number or a version") };
        let (number, version): (usize, u64) = (number.parse()?, version.parse()?);
        *stored.get_mut(number).with_context(|| format!("object {number} was never saved"))? = Some(version);
    }
    Ok(difference((0..COUNT).map(|number| (ledger.version(number), stored[number]))))
}

/// Of pairs of the newest acknowledged version (0: none) and the stored one.
fn difference(objects: impl Iterator<Item = (u64, Option<u64>)>) -> Difference {
    objects.fold(Difference::default(), |mut difference, (acknowledged, stored)| {
        match stored {
            None if acknowledged > 0 => difference.lost += 1,
            Some(stored) if stored < acknowledged => difference.stale += 1,
            _ => (),
        }
        difference
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::sandbox::{Sandbox, SandboxOptions};

    #[test]
    fn objects_are_5000_and_parents_come_first() {
        let keys: BTreeSet<_> = (0..COUNT).map(|n| (save(n, 1).collection().to_owned(), save(n, 1).key().to_vec())).collect();
        assert_eq!(keys.len(), 5_000);
        assert_eq!(Object::numbered(CUSTOMERS), Object::Order(0));
        assert_eq!(Object::numbered(COUNT - 1), Object::Line { order: ORDERS - 1, line: LINES_PER_ORDER });
    }

    #[test]
    fn missing_is_lost_older_is_stale_and_newer_is_neither() {
        let objects = [(0, None), (3, None), (3, Some(2)), (3, Some(3)), (3, Some(4)), (0, Some(1))];
        assert_eq!(difference(objects.into_iter()), Difference { lost: 1, stale: 1 });
    }
    #[tokio::test]
    async fn what_postgres_holds_is_compared_object_by_object() {
        let postgres = Sandbox::create(SandboxOptions { fsync: false, ..Default::default() }).expect("a private Postgres");
        let database = Database::connect(&postgres.url()).await.expect("a connection");
        database.run(SCHEMA).await.expect("tables");
        let rows = format!(
            "insert into customers (id, name, version) select n, 'x', 2 from generate_series(0, {CUSTOMERS} - 1) n;
             insert into orders (id, customer_id, version) select n, n % {CUSTOMERS}, 2 from generate_series(0, {ORDERS} - 1) n;
             insert into order_lines (order_id, line, product, version)
             select n, line, 'x', 2 from generate_series(0, {ORDERS} - 1) n, generate_series(1, {LINES_PER_ORDER}) line"
        );
        database.run(&rows).await.expect("rows");
        let ledger = Ledger::new(COUNT as u64);
        (0..COUNT).for_each(|number| ledger.acknowledge(number, 2));
        assert_eq!(compare(&database, &ledger).await.expect("rows"), Difference::default());

        database
            .run("delete from order_lines where order_id = 7 and line = 2; update orders set version = 1 where id = 9")
            .await
            .expect("run");
        assert_eq!(compare(&database, &ledger).await.expect("rows"), Difference { lost: 1, stale: 1 });
    }
}
