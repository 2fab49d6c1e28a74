//! Where the counts of each replica are read: of the pods themselves, or of a Prometheus that scrapes them.
//!
//! In reading order: [`target`] (who can be asked), [`credentials`], the two sources [`pods`] with [`exposition`] and
//! [`prometheus`] with [`servers`] and [`promql`], what a series means ([`tally`]), and [`round`] (what becomes of the
//! readings). A failure is never turned into a number, and nothing is tried twice: the next round comes soon.

pub mod credentials;
pub mod exposition;
pub mod pods;
pub mod prometheus;
pub mod promql;
pub mod round;
pub mod servers;
pub mod tally;
pub mod target;

use plimsoll_core::engine::Sample;
use plimsoll_core::input::Outage;
use plimsoll_crds::ApiDeployment;

use self::credentials::Credentials;
use self::target::Target;

/// One API, and those of its pods that are to be read.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// The resource.
    pub app: &'a ApiDeployment,
    /// Name of the Deployment that makes the pods.
    pub deployment: &'a str,
    /// The pods. Those that are not Ready are not asked.
    pub targets: &'a [Target],
    /// What the resource's own Secrets hold.
    pub credentials: &'a Credentials,
}

impl<'a> Asked<'a> {
    /// The pods that are asked.
    pub fn ready(self) -> impl Iterator<Item = &'a Target> {
        self.targets.iter().filter(|target| target.ready_at.is_some())
    }
}

/// What a pod said.
#[derive(Clone, Debug, PartialEq)]
pub struct Reading {
    /// UID of the pod.
    pub uid: String,
    /// Its counts since it started, or why there are none. The time is when the pod made them.
    pub sample: Sample,
}

/// Reads the counts of pods.
///
/// Both sources keep one contract, and one suite of tests holds them to it: of the same pods they read the same counts, a
/// pod that cannot be read has a reason and no number, and what one pod does changes nothing of another's.
pub trait MetricsSource {
    /// Reads each Ready pod once, within seconds.
    ///
    /// # Errors
    /// [`Outage`] when none could be read for a reason that is none of the pods'.
    fn read(&self, asked: Asked<'_>) -> impl Future<Output = Result<Vec<Reading>, Outage>> + Send;
}
