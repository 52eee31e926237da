//! `forebay check`: what would be used, before it is.

use clap::Args;
use forebay::{
    collections::Collections,
    exit::{Exit, Failure, OrExit},
    postgres::Postgres,
    settings::{Listed, Settings},
};

use super::SettingsArguments;

/// Checks the settings and prints what would be used, and from where; secrets are hidden.
#[derive(Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    settings: SettingsArguments,
    /// Also asks Postgres: which tables are collections, which not and why, and which privileges are missing (exit 1).
    #[arg(long)]
    connect: bool,
}

pub(super) fn run(arguments: &Arguments) -> Result<Exit, Failure> {
    let loaded = arguments.settings.load_with_origins()?;
    print!("{}", listing(&loaded.listing()));
    if loaded.settings.postgres.url().is_none() {
        println!("\npostgres.url is not set: `forebay serve` needs it; set DATABASE_URL, or try `forebay serve --dev`");
    }
    if !arguments.connect {
        return Ok(Exit::Success);
    }
    super::block_on(ask(&loaded.settings))
}

/// Asks Postgres and prints what it says.
async fn ask(settings: &Settings) -> Result<Exit, Failure> {
    let postgres = Postgres::new(&settings.postgres, 1).or_exit(Exit::Settings, "read postgres.url")?;
    let server = postgres.server().await.or_exit(Exit::Unavailable, "connect to postgres")?;
    println!("\nPostgres {}, database {}, role {}", server.version, server.database, server.role);
    let catalog = postgres.read_catalog().await.or_exit(Exit::Unavailable, "read the catalog")?;
    let lanes = settings.layout();
    let collections = Collections::build(&catalog, &settings.collection_rules(lanes.clone()), &Collections::default());
    collections.iter().for_each(|collection| println!("  collection {}, lane {}", collection.name, lanes.name(collection.lane)));
    collections.refused().iter().for_each(|table| println!("  no collection: {}: {}", table.name, table.reason));
    let problems = lanes.problems(&collections);
    if !problems.is_empty() {
        return Err(Failure { exit: Exit::Settings, error: anyhow::anyhow!("{}", problems.join("; ")) });
    }
    let missing = postgres.privileges(&collections).await.or_exit(Exit::Unavailable, "read the privileges")?;
    if missing.is_empty() {
        return Ok(Exit::Success);
    }
    println!("\nthe role lacks privileges; run as an owner:");
    missing.iter().for_each(|grant| println!("  {grant}"));
    Ok(Exit::No)
}

/// One line a key; what isn't a default says where it was read.
fn listing(listed: &[Listed]) -> String {
    let width = listed.iter().map(|line| line.key.len()).max().unwrap_or_default();
    listed.iter().map(|line| format!("{:width$} = {}\n", line.key, described(line))).collect()
}

fn described(line: &Listed) -> String {
    let value = line.value.as_deref().unwrap_or("(not set)");
    line.origin.as_ref().map_or_else(|| value.to_owned(), |origin| format!("{value}  # {origin}"))
}

#[cfg(test)]
mod tests {
    use forebay::settings::Loaded;

    use super::*;

    #[test]
    fn secrets_are_hidden_and_origins_told() {
        let env = [("DATABASE_URL".to_owned(), "postgres://u:hunter2@h/d".to_owned())];
        let loaded = Loaded::load(None, env.into_iter(), &["grpc.listen=0.0.0.0:1".to_owned()]).expect("good settings");
        let text = listing(&loaded.listing());
        assert!(text.contains("= (secret)  # DATABASE_URL\n"), "{text}");
        assert!(text.contains("= \"0.0.0.0:1\"  # --set\n"), "{text}");
        assert!(!text.contains("hunter2"));
    }
}
