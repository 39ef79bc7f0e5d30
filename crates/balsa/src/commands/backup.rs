//! `balsa backup`: everything that a cluster stores in one file, and back.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::ops::ControlFlow;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use balsa_log::backup::{BackupInfo, inspect};
use balsa_model::Revision;
use balsa_server::{Revisions, Rewound};
use clap::Subcommand;
use futures::StreamExt as _;

use crate::connect::ConnectArgs;
use crate::output;
use crate::run::progress::Progress;
use crate::run::{host, layout};

/// Save the cluster's objects into a file, and make a cluster out of one
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    balsa backup save cluster.backup\n  \
    balsa backup inspect cluster.backup\n  \
    balsa backup restore cluster.backup --data-dir /var/lib/balsa-new\n  \
    balsa backup restore cluster.backup --data-dir /var/lib/balsa-new --revision 4711\n  \
    balsa server --data-dir /var/lib/balsa-new")]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Save(Save),
    Inspect(Inspect),
    Restore(Restore),
}

/// Save everything as of now, from any server, while it works
///
/// Secrets are in it as they are: keep it as safe as the servers. Keys of the cluster are not in it.
#[derive(clap::Args)]
struct Save {
    /// Where to; nothing is there until all is there
    file: PathBuf,
    #[command(flatten)]
    connect: ConnectArgs,
}

/// Check a backup, and say what is in it
#[derive(clap::Args)]
struct Inspect {
    /// The backup
    file: PathBuf,
}

/// Make the data directory of a new cluster out of a backup
///
/// The new cluster has an identity of its own: servers of the old one cannot come back into it. Its CA is
/// new too, unless pki/ of the old cluster was copied into the data directory before.
#[derive(clap::Args)]
struct Restore {
    /// The backup
    file: PathBuf,
    /// Data directory of the new cluster's first server; must hold no cluster
    #[arg(long, value_name = "DIR", env = "BALSA_DATA_DIR")]
    data_dir: PathBuf,
    /// What people call that server [default: this machine's name]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// The state as it was at that revision (a resourceVersion), as far as the history in the backup reaches;
    /// `inspect` says how far. Leases have no history and stay as they are [default: all that is in it]
    #[arg(long, value_name = "N")]
    revision: Option<u64>,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    match args.command {
        Command::Save(save) => self::save(save).await,
        Command::Inspect(inspect) => output::print(&told(&inspect.file, &read(&inspect.file)?)),
        Command::Restore(restore) => self::restore(&restore).await,
    }
}

async fn save(save: Save) -> anyhow::Result<()> {
    if save.file.symlink_metadata().is_ok_and(|there| !there.is_file()) {
        bail!("{} is there already and no regular file; name another", save.file.display());
    }
    let mut name = save.file.as_os_str().to_owned();
    name.push(".partial");
    let partial = PathBuf::from(name);
    let saved = save_into(&save, &partial).await;
    if saved.is_err() {
        // What is not whole is of no use, and the disk may be full of it.
        let _ = std::fs::remove_file(&partial);
    }
    output::print(&told(&save.file, &saved?))
}

async fn save_into(save: &Save, partial: &Path) -> anyhow::Result<Content> {
    let progress = Progress::new();
    let (expected, mut chunks) = save.connect.open()?.remote.save_backup().await?;
    let context = || format!("cannot write {}", partial.display());
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(partial)
        .with_context(context)?;
    let mut bytes = 0u64;
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk?;
        file.write_all(&chunk).with_context(context)?;
        bytes += chunk.len() as u64;
        progress.doing(format!("saved {} of about {}", size(bytes), size(expected.max(bytes))));
    }
    file.sync_all().with_context(context)?;
    drop(file);
    progress.doing("checking");
    let content = read(partial)?;
    std::fs::rename(partial, &save.file).with_context(|| format!("cannot write {}", save.file.display()))?;
    progress.finish();
    Ok(content)
}

async fn restore(restore: &Restore) -> anyhow::Result<()> {
    let directory = std::path::absolute(&restore.data_dir)?;
    let claim = layout::Claim::take(&directory)?;
    let content = read(&restore.file)?;
    let name = restore.name.clone().unwrap_or_else(host::name);
    let revision = restore.revision.map(Revision);
    content.reaches(revision)?;
    let restored = balsa_server::restore(&restore.file, &directory, &name, revision).await;
    claim.release(&directory);
    let Rewound { changed, returned, removed } = restored?;
    let back = revision.map_or(String::new(), |revision| {
        format!(
            "As of revision {revision}: {changed} objects are as they were, {returned} are there again, {removed} are \
             gone.\n"
        )
    });
    output::print(&format!(
        "{}\n{back}A new cluster is in {}; start it with\n  balsa server --data-dir {}\n",
        told(&restore.file, &content),
        directory.display(),
        directory.display()
    ))
}

/// What is in a backup.
struct Content {
    info: BackupInfo,
    /// Resources and how many objects of each there are.
    kinds: BTreeMap<String, u64>,
    /// How far the history reaches.
    revisions: Revisions,
}

impl Content {
    /// That the history reaches back to a revision.
    fn reaches(&self, revision: Option<Revision>) -> anyhow::Result<()> {
        let Revisions { oldest, newest, .. } = self.revisions;
        match revision {
            Some(Revision(wanted)) if !(oldest..=newest).contains(&wanted) => bail!(
                "--revision {wanted} is out of reach: the history in this backup goes from revision {oldest} to {newest}"
            ),
            _ => Ok(()),
        }
    }
}

fn read(path: &Path) -> anyhow::Result<Content> {
    let mut kinds = BTreeMap::new();
    let mut revisions = Revisions::default();
    let info = inspect(path, |table, key, value| {
        revisions.see(table, key, value);
        let resource = key.split(|byte| *byte == 0).next().and_then(|name| std::str::from_utf8(name).ok());
        if let Some(resource) = resource.filter(|name| table == balsa_log::Table::Objects && !name.is_empty())
        {
            *kinds.entry(resource.to_owned()).or_default() += 1;
        }
        ControlFlow::Continue(())
    })?;
    if info.index.is_none() {
        bail!("{} is empty: the cluster that it came from had written nothing", path.display());
    }
    Ok(Content { info, kinds, revisions })
}

fn told(path: &Path, content: &Content) -> String {
    let Content { info, kinds, revisions } = content;
    let bytes = path.metadata().map_or(0, |metadata| metadata.len());
    let counts: Vec<String> = kinds.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
    let servers: Vec<String> =
        info.servers.iter().map(|(name, address)| format!("{name} ({address})")).collect();
    format!(
        "{}: whole and undamaged, {}\n  up to entry {}, revision {}; {} changes of history, back to revision {}\n  \
         {} objects: {}\n  from the cluster of {}\n",
        path.display(),
        size(bytes),
        info.index.map_or(0, |index| index.0),
        revisions.newest,
        revisions.changes,
        revisions.oldest,
        kinds.values().sum::<u64>(),
        counts.join(", "),
        servers.join(", ")
    )
}

fn size(bytes: u64) -> String {
    match bytes {
        0..1_048_576 => format!("{:.1} KiB", bytes as f64 / 1024.0),
        _ => format!("{:.1} MiB", bytes as f64 / 1_048_576.0),
    }
}
