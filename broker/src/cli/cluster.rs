//! `firn cluster info|drain|undrain|force-move`: ask the HTTP door of any broker of the cluster.

use std::fmt;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};

use crate::cli::force_move::ForceArgs;
use crate::cli::http_client::BrokerArgs;
use crate::cli::table::Table;
use crate::cli::{runtime, show, tell};
use crate::error::FirnError;
use crate::http::{BrokerStatus, ClusterStatus, DiskStatus};

/// What of the cluster is wanted.
#[derive(Debug, Args)]
pub(super) struct ClusterArgs {
    #[command(subcommand)]
    command: ClusterCommand,
}

#[derive(Debug, Subcommand)]
enum ClusterCommand {
    /// Show the brokers of the cluster
    ///
    /// LEADS: the one that holds the coordinator. PARTITIONS: how many it owns; LEAVING: how many of
    /// them it is to hand over. A broker that is not listed is not alive.
    Info(BrokerArgs),
    /// Let a broker hand over all that it owns, and wait until it has; it then gets nothing more
    Drain(OrderArgs),
    /// Let a broker own partitions again
    Undrain(OrderArgs),
    /// Give up what only a lost disk may hold, so that partitions that wait for it go on
    ///
    /// Partitions of topics with `firn.durability=local` wait for the disk of an owner that crashed:
    /// records may be acknowledged that the bucket does not have. If that disk will not come back,
    /// this lets them go on where the bucket ends, at another broker. What the disk holds from there
    /// on is lost: should it come back after all, it is counted and kept aside, and not put back.
    ForceMove(ForceArgs),
}

#[derive(Debug, Args)]
struct OrderArgs {
    /// The broker's id, as `firn cluster info` shows it
    broker: i32,
    /// Do not wait until it has handed over
    #[arg(long)]
    no_wait: bool,
    #[command(flatten)]
    at: BrokerArgs,
}

/// Asks, and prints the answer.
pub(super) fn run(args: &ClusterArgs) -> Result<ExitCode, FirnError> {
    match &args.command {
        ClusterCommand::Info(at) => {
            let answer = at.ask("GET", "/cluster", || {})?;
            let status: ClusterStatus = at.parse(&answer)?;
            match at.json {
                true => show(&answer.body),
                false => show(&StatusTable(&status)),
            }
        }
        ClusterCommand::ForceMove(force) => return force.run(),
        ClusterCommand::Drain(order) => runtime()?.block_on(drain(order))?,
        ClusterCommand::Undrain(order) => {
            order.give("undrain")?;
            show(&format_args!(
                "broker {} may own partitions\n",
                order.broker
            ));
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn drain(order: &OrderArgs) -> Result<(), FirnError> {
    let mut status = order.give("drain")?;
    if order.no_wait {
        show(&format_args!("broker {} hands over\n", order.broker));
        return Ok(());
    }
    let mut owned = None;
    loop {
        let broker = status.brokers.iter().find(|b| b.broker == order.broker);
        // One that is gone owns nothing.
        let left = broker.map_or(0, |broker| broker.partitions);
        if left == 0 {
            break;
        }
        if owned != Some(left) {
            tell(&format_args!(
                "broker {} owns {left} partitions",
                order.broker
            ));
            owned = Some(left);
        }
        if status.brokers.iter().all(|b| b.draining) {
            let reason = "no other broker is there to take them; it keeps them until one is";
            return Err(FirnError::failed("the broker cannot hand over", reason));
        }
        tokio::time::sleep(LOOK_EVERY).await;
        let answer = order.at.ask("GET", "/cluster", || {})?;
        status = order.at.parse(&answer)?;
    }
    show(&format_args!("broker {} is drained\n", order.broker));
    Ok(())
}

impl OrderArgs {
    fn give(&self, order: &str) -> Result<ClusterStatus, FirnError> {
        let path = format!("/cluster/{order}?broker={}", self.broker);
        let answer = self.at.ask("POST", &path, || {})?;
        self.at.parse(&answer)
    }
}

/// The brokers, a line for each, and a line about partitions.
struct StatusTable<'a>(&'a ClusterStatus);

const HEADINGS: [&str; 8] = [
    "BROKER",
    "ADDRESS",
    "RACK",
    "LEADS",
    "DRAINING",
    "PARTITIONS",
    "LEAVING",
    "INCARNATION",
];

impl fmt::Display for StatusTable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(status) = self;
        let mut table = Table::new(HEADINGS);
        for broker in &status.brokers {
            table.add(row(broker));
        }
        write!(f, "{table}")?;
        writeln!(
            f,
            "cluster {}: {} topics, {} partitions, {} without an owner",
            status.cluster, status.topics, status.partitions, status.without_owner
        )?;
        for disk in &status.waits_for {
            let DiskStatus {
                disk,
                broker,
                partitions,
            } = disk;
            writeln!(
                f,
                "{partitions} partitions wait for disk {disk} of broker {broker} \
                 (firn.durability=local): start a broker with it, or give it up with \
                 firn cluster force-move"
            )?;
        }
        Ok(())
    }
}

fn row(broker: &BrokerStatus) -> [String; HEADINGS.len()] {
    let flag = |is: bool| if is { "yes" } else { "-" }.to_owned();
    [
        broker.broker.to_string(),
        broker.listeners.join(","),
        broker.rack.clone().unwrap_or_else(|| "-".to_owned()),
        flag(broker.leads),
        flag(broker.draining),
        broker.partitions.to_string(),
        broker.leaving.to_string(),
        broker.incarnation.to_string(),
    ]
}

/// How often it is looked how far a broker is with handing over.
const LOOK_EVERY: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_names_each_broker_and_what_nobody_owns() {
        let broker = |broker, leads| BrokerStatus {
            broker,
            incarnation: 7,
            listeners: vec!["127.0.0.1:9092".to_owned()],
            rack: None,
            leads,
            draining: !leads,
            partitions: 12,
            leaving: 3,
        };
        let status = ClusterStatus {
            cluster: "c".to_owned(),
            brokers: vec![broker(1, true), broker(12, false)],
            topics: 2,
            partitions: 24,
            without_owner: 2,
            waits_for: vec![DiskStatus {
                disk: "0badcafe".to_owned(),
                broker: 3,
                partitions: 2,
            }],
        };
        let text = StatusTable(&status).to_string();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 5, "{text}");
        assert!(
            lines[1].starts_with("1 ") && lines[2].starts_with("12 "),
            "{text}"
        );
        assert!(
            lines[3].ends_with("24 partitions, 2 without an owner"),
            "{text}"
        );
        let waits = "2 partitions wait for disk 0badcafe of broker 3";
        assert!(lines[4].starts_with(waits), "{text}");
    }
}
