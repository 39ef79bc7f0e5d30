//! `balsa certs`: which certificates there are, until when, and when they are renewed.

use balsa_proto::v1;

use crate::connect::ConnectArgs;
use crate::output::{self, Table};

/// Show the certificates of the server that answers, and when they are renewed
#[derive(clap::Args)]
#[command(
    after_help = "Servers and agents renew their certificates by themselves, in the last third of their life.\n\n\
    Example:\n  balsa certs"
)]
pub(crate) struct Args {
    #[command(flatten)]
    connect: ConnectArgs,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let told = args.connect.open()?.remote.get_certificates(v1::GetCertificatesRequest {}).await?;
    let mut table = Table::new(["NAME", "SUBJECT", "FROM", "UNTIL", "RENEWED"]);
    for certificate in told.certificates {
        let renews = if certificate.renews.is_empty() { "never".to_owned() } else { certificate.renews };
        table.row([
            certificate.name,
            certificate.subject,
            certificate.not_before,
            certificate.not_after,
            renews,
        ]);
    }
    output::print(&format!("Server {} ({})\n\n{}", told.server_name, told.server_id, table.render(true)))
}
