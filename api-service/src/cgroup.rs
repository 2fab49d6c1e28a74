//! What the kernel counts of this process's own cgroup: CPU used, and time for which the quota kept it from running.
//! Reads versions 1 and 2; what cannot be read is absent, never zero.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// CPU of a cgroup since it was made. Each field is absent where the kernel does not tell it.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct CpuUse {
    /// CPU time used, in seconds.
    pub usage_seconds: Option<f64>,
    /// Time for which threads that could run were not let, in seconds, summed over CPUs.
    pub throttled_seconds: Option<f64>,
    /// Periods of the quota in which the cgroup ran.
    pub periods: Option<f64>,
    /// Of these, those in which the quota was used up.
    pub throttled_periods: Option<f64>,
    /// The quota in CPUs; absent without one.
    pub quota_cores: Option<f64>,
}

/// Where the files of this process's cgroup are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CpuFiles {
    /// Version 1: quota and throttling in one folder, use in another, which may be the same.
    V1 {
        /// Of the controller `cpu`.
        cpu: Option<PathBuf>,
        /// Of the controller `cpuacct`.
        cpuacct: Option<PathBuf>,
    },
    /// Version 2: all in one folder.
    V2(PathBuf),
}

impl CpuFiles {
    /// Finds the files of this process; none when there is no cgroup to be seen.
    pub fn find() -> Option<Self> {
        let cgroups = fs::read_to_string("/proc/self/cgroup").ok()?;
        let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
        Self::locate(&cgroups, &mounts)
    }

    /// As [`CpuFiles::find`], from the text of `/proc/self/cgroup` and `/proc/self/mountinfo`.
    fn locate(cgroups: &str, mounts: &str) -> Option<Self> {
        // Hybrid machines mount version 2 beside version 1, without controllers: the one that has `cpu` counts.
        let v1 = |controller| folder(cgroups, mounts, Some(controller));
        match (v1("cpu"), v1("cpuacct")) {
            (None, None) => folder(cgroups, mounts, None).map(Self::V2),
            (cpu, cpuacct) => Some(Self::V1 { cpu, cpuacct }),
        }
    }

    /// Reads the files.
    pub fn read(&self) -> CpuUse {
        let text = |folder: &Path, file| fs::read_to_string(folder.join(file)).unwrap_or_default();
        match self {
            Self::V1 { cpu, cpuacct } => {
                let cpu = |file| cpu.as_deref().map(|folder| text(folder, file)).unwrap_or_default();
                let usage = cpuacct.as_deref().map(|folder| text(folder, "cpuacct.usage"));
                parse_v1(
                    &cpu("cpu.stat"),
                    &cpu("cpu.cfs_quota_us"),
                    &cpu("cpu.cfs_period_us"),
                    &usage.unwrap_or_default(),
                )
            }
            Self::V2(folder) => parse_v2(&text(folder, "cpu.stat"), &text(folder, "cpu.max")),
        }
    }
}

/// The folder of this process's cgroup in the hierarchy of a controller (version 1), or in the one of version 2.
fn folder(cgroups: &str, mounts: &str, controller: Option<&str>) -> Option<PathBuf> {
    let path = cgroups.lines().find_map(|line| {
        // hierarchy:controllers:path, where version 2 has an empty list.
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next()?, fields.next()?);
        let ours = match controller {
            Some(controller) => controllers.split(',').any(|name| name == controller),
            None => controllers.is_empty(),
        };
        ours.then_some(path)
    })?;
    mounts.lines().find_map(|line| {
        let (mount, filesystem) = line.split_once(" - ")?;
        let mut mount = mount.split(' ').skip(3);
        let (root, point) = (mount.next()?, mount.next()?);
        let mut filesystem = filesystem.split(' ');
        let kind = filesystem.next()?;
        let ours = match controller {
            Some(controller) => {
                kind == "cgroup" && filesystem.nth(1)?.split(',').any(|option| option == controller)
            }
            None => kind == "cgroup2",
        };
        if !ours {
            return None;
        }
        // A container sees its own cgroup as the mount's root: by a namespace, which shows the path as `/`, or by a
        // bind mount of it, whose root is then the path or lies above it.
        let below = Path::new(path).strip_prefix(root).unwrap_or(Path::new(""));
        Some(Path::new(point).join(below))
    })
}

fn parse_v1(stat: &str, quota_us: &str, period_us: &str, usage_ns: &str) -> CpuUse {
    let quota = number(quota_us).filter(|quota| *quota > 0.0);
    CpuUse {
        usage_seconds: number(usage_ns).map(|nanos| nanos / 1e9),
        throttled_seconds: field(stat, "throttled_time").map(|nanos| nanos / 1e9),
        periods: field(stat, "nr_periods"),
        throttled_periods: field(stat, "nr_throttled"),
        quota_cores: quota.zip(number(period_us)).and_then(ratio),
    }
}

fn parse_v2(stat: &str, max: &str) -> CpuUse {
    let quota = max.trim().split_once(' ');
    CpuUse {
        usage_seconds: field(stat, "usage_usec").map(|micros| micros / 1e6),
        throttled_seconds: field(stat, "throttled_usec").map(|micros| micros / 1e6),
        periods: field(stat, "nr_periods"),
        throttled_periods: field(stat, "nr_throttled"),
        // `max 100000` is no quota.
        quota_cores: quota.and_then(|(quota, period)| ratio((number(quota)?, number(period)?))),
    }
}

fn ratio((quota, period): (f64, f64)) -> Option<f64> {
    (period > 0.0).then(|| quota / period)
}

fn field(stat: &str, name: &str) -> Option<f64> {
    stat.lines().find_map(|line| number(line.strip_prefix(name)?.strip_prefix(' ')?))
}

fn number(text: &str) -> Option<f64> {
    text.trim().parse().ok().filter(|number: &f64| number.is_finite())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v1(cpu: &str, cpuacct: &str) -> CpuFiles {
        CpuFiles::V1 { cpu: Some(cpu.into()), cpuacct: Some(cpuacct.into()) }
    }

    #[test]
    fn version_2_in_a_namespace() {
        let mounts =
            "30 23 0:26 / /sys/fs/cgroup ro,nosuid,nodev,noexec,relatime - cgroup2 cgroup rw,nsdelegate";
        assert_eq!(CpuFiles::locate("0::/\n", mounts), Some(CpuFiles::V2("/sys/fs/cgroup".into())));
    }

    #[test]
    fn version_2_nested_on_the_host() {
        let mounts = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate";
        assert_eq!(
            CpuFiles::locate("0::/kubepods.slice/pod1.slice/cri-1.scope\n", mounts),
            Some(CpuFiles::V2("/sys/fs/cgroup/kubepods.slice/pod1.slice/cri-1.scope".into()))
        );
    }

    #[test]
    fn version_1_bind_mounted_into_a_container() {
        let cgroups =
            "5:memory:/kubepods/pod1/c1\n4:cpu,cpuacct:/kubepods/pod1/c1\n1:name=systemd:/kubepods/pod1/c1\n";
        let mounts = "\
            700 690 0:30 /kubepods/pod1/c1 /sys/fs/cgroup/memory ro,nosuid - cgroup cgroup rw,memory\n\
            701 690 0:31 /kubepods/pod1/c1 /sys/fs/cgroup/cpu,cpuacct ro,nosuid - cgroup cgroup rw,cpu,cpuacct\n";
        let folder = "/sys/fs/cgroup/cpu,cpuacct";
        assert_eq!(CpuFiles::locate(cgroups, mounts), Some(v1(folder, folder)));
        // A process that was moved into a child of its container's cgroup.
        let nested = cgroups.replace("c1", "c1/child");
        let folder = "/sys/fs/cgroup/cpu,cpuacct/child";
        assert_eq!(CpuFiles::locate(&nested, mounts), Some(v1(folder, folder)));
    }

    #[test]
    fn version_1_with_separate_hierarchies_beside_an_empty_version_2() {
        let cgroups = "9:cpuset:/\n2:cpuacct:/bench\n1:cpu:/bench\n0::/\n";
        let mounts = "\
            40 30 0:40 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n\
            41 30 0:41 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset\n\
            42 30 0:42 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
            43 30 0:43 / /sys/fs/cgroup/cpuacct rw - cgroup cgroup rw,cpuacct\n";
        assert_eq!(
            CpuFiles::locate(cgroups, mounts),
            Some(v1("/sys/fs/cgroup/cpu/bench", "/sys/fs/cgroup/cpuacct/bench"))
        );
    }

    #[test]
    fn a_path_outside_of_the_mount_is_the_mount_itself() {
        // A namespace made after the process was moved shows the way up.
        let mounts = "30 23 0:26 /pod /sys/fs/cgroup rw - cgroup2 cgroup2 rw";
        assert_eq!(CpuFiles::locate("0::/../c2\n", mounts), Some(CpuFiles::V2("/sys/fs/cgroup".into())));
    }

    #[test]
    fn without_cgroups_nothing_is_found() {
        assert_eq!(CpuFiles::locate("", ""), None);
        assert_eq!(CpuFiles::locate("0::/\n", "22 1 0:20 / /proc rw - proc proc rw"), None);
    }

    #[test]
    fn reads_version_1() {
        let read = parse_v1(
            "nr_periods 40\nnr_throttled 10\nthrottled_time 2500000000\nwait_sum 7\n",
            "20000\n",
            "100000\n",
            "1500000000\n",
        );
        let expected = CpuUse {
            usage_seconds: Some(1.5),
            throttled_seconds: Some(2.5),
            periods: Some(40.0),
            throttled_periods: Some(10.0),
            quota_cores: Some(0.2),
        };
        assert_eq!(read, expected);
        assert_eq!(parse_v1("", "-1\n", "100000\n", "").quota_cores, None);
    }

    #[test]
    fn reads_version_2() {
        let stat = "usage_usec 1500000\nuser_usec 1\nsystem_usec 2\nnr_periods 40\nnr_throttled 10\nthrottled_usec 2500000\n";
        let read = parse_v2(stat, "20000 100000\n");
        let expected = CpuUse {
            usage_seconds: Some(1.5),
            throttled_seconds: Some(2.5),
            periods: Some(40.0),
            throttled_periods: Some(10.0),
            quota_cores: Some(0.2),
        };
        assert_eq!(read, expected);
        // The root has no quota and so no periods.
        let root = parse_v2("usage_usec 10\nuser_usec 1\n", "max 100000");
        assert_eq!(root, CpuUse { usage_seconds: Some(1e-5), ..CpuUse::default() });
    }

    #[test]
    fn what_cannot_be_read_is_absent() {
        let files = CpuFiles::V1 { cpu: Some("/nonexistent".into()), cpuacct: None };
        assert_eq!(files.read(), CpuUse::default());
        assert_eq!(CpuFiles::V2("/nonexistent".into()).read(), CpuUse::default());
    }

    /// The kernel's own text, where this process may mount a hierarchy of version 2; the quota is version 1's on machines that
    /// have both.
    #[test]
    fn reads_what_a_kernel_tells_of_version_2() {
        const SCRIPT: &str = r#"
            set -e
            mount -t cgroup2 none "$1"
            own="$1/plimsoll-test-$$"
            mkdir "$own"
            echo $$ > "$own/cgroup.procs"
            i=0; while [ $i -lt 100000 ]; do i=$((i + 1)); done
            cat /proc/self/cgroup; echo =; cat /proc/self/mountinfo; echo =; cat "$own/cpu.stat"; echo =; echo "$own"
            echo $$ > "$1/cgroup.procs"
            rmdir "$own""#;
        let place = tempfile::tempdir().unwrap();
        let mut unshare = std::process::Command::new("unshare");
        // A namespace of its own, so that no mount outlives it.
        let output = unshare.args(["--mount", "sh", "-c", SCRIPT, "sh"]).arg(place.path()).output().unwrap();
        if !output.status.success() {
            println!("NOT RUN: a real cgroup v2; {}", String::from_utf8_lossy(&output.stderr));
            return;
        }
        let text = String::from_utf8(output.stdout).unwrap();
        let [cgroups, mounts, stat, own] = text.split("=\n").collect::<Vec<_>>().try_into().unwrap();
        let only = |text: &str, what: &str| {
            text.lines().filter(|line| line.contains(what)).collect::<Vec<_>>().join("\n")
        };
        let (cgroups, mounts) = (only(cgroups, "0::"), only(mounts, place.path().to_str().unwrap()));
        assert_eq!(CpuFiles::locate(&cgroups, &mounts), Some(CpuFiles::V2(own.trim().into())));
        let read = parse_v2(stat, "");
        assert!(read.usage_seconds.is_some_and(|seconds| seconds > 0.0), "{stat}");
        assert_eq!((read.throttled_seconds.is_some(), read.quota_cores), (read.periods.is_some(), None));
    }
}
