//! What the status says of the cache: rounded, and changed only when it has moved by more than noise does. Pure.

use plimsoll_crds::{ApiDeployment, CacheKind, CacheStatus, quantity_bytes};

use crate::build::cache_name;
use crate::cache::{Effect, SilenceCause, container_bytes};

/// A share of look-ups, in percent, is news when it has moved by this much.
const RATIO_NEWS_PERCENT: i32 = 3;
/// Memory in use is news when it has moved by this share of the limit.
const MEMORY_NEWS: f64 = 0.1;
/// A rate is news when it has moved by this share of itself.
const RATE_NEWS: f64 = 0.25;

const MEBIBYTE: f64 = 1_048_576.0;

/// The cache's part of the status. What nobody has told for a while is left out; too few look-ups say nothing new.
pub(crate) fn next(
    app: &ApiDeployment,
    before: Option<&CacheStatus>,
    ready: Option<bool>,
    effect: Option<&Effect>,
) -> CacheStatus {
    let kind = match app.spec.cache.kind() {
        CacheKind::Managed(_) => "Managed",
        CacheKind::External(_) => "External",
        CacheKind::Disabled => "Disabled",
    };
    let mut status = CacheStatus { kind: kind.into(), ready, ..CacheStatus::default() };
    let Some(effect) = effect else { return status };
    let before = before.filter(|before| before.kind == kind);
    let ratio = effect.hit_ratio.map(|ratio| (ratio * 100.0).round() as i32);
    let told = before.and_then(|before| before.hit_ratio_percent);
    status.hit_ratio_percent = match (told, ratio) {
        (Some(told), Some(ratio)) if (told - ratio).abs() < RATIO_NEWS_PERCENT => Some(told),
        (told, ratio) => ratio.or(told),
    };
    let told = before.and_then(|before| before.evictions_per_second.clone());
    status.evictions_per_second = match effect.evictions_per_second {
        Some(rate) => Some(told.filter(|told| same_rate(told, rate)).unwrap_or_else(|| rate_text(rate))),
        None => told,
    };
    let limit = effect.memory_max_bytes as f64;
    status.memory_limit = (limit > 0.0).then(|| mebibytes(limit));
    let told = before.filter(|before| before.memory_limit == status.memory_limit);
    let told = told.and_then(|before| before.memory_used.clone());
    let used = effect.memory_bytes as f64;
    status.memory_used =
        Some(told.filter(|told| same_memory(told, used, limit)).unwrap_or_else(|| mebibytes(used)));
    status
}

/// Why nothing is known of a cache that is ready, and what to do.
pub(crate) fn silent(app: &ApiDeployment, cause: SilenceCause) -> String {
    let name = cache_name(app);
    let (why, fix) = match cause {
        SilenceCause::Unreachable => (
            "it cannot be reached",
            format!(
                "check that the operator's namespace may reach {name}: a NetworkPolicy or a mesh of your own may be between"
            ),
        ),
        SilenceCause::Unauthorized => (
            "it does not take the operator's password",
            format!(
                "delete the Secret {name} to have new passwords; the cache and the replicas are rolled with them"
            ),
        ),
        SilenceCause::Unreadable => (
            "its answer to INFO is not one of Redis",
            "check that spec.cache.managed.image is Redis, Valkey or an engine like them".to_owned(),
        ),
    };
    format!("the managed cache is ready, but does not tell the operator how it fares: {why}; {fix}")
}

/// What is wrong with a cache that is too small, and what to write, in words that change only when the status does.
pub(crate) fn too_small(app: &ApiDeployment, status: &CacheStatus, effect: &Effect) -> String {
    let found = status
        .hit_ratio_percent
        .map_or(String::new(), |percent| format!(" only {percent} % of look-ups find something,"));
    let evicts = status.evictions_per_second.as_deref().unwrap_or("some");
    let CacheKind::Managed(cache) = app.spec.cache.kind() else {
        return format!("the cache is too small:{found} and it evicts {evicts} keys/s");
    };
    let now = quantity_bytes(&cache.memory).unwrap_or(0);
    let enough = effect.enough_bytes.map(|keys| container_bytes(keys, cache.fails_over()));
    let fix = match enough.filter(|enough| *enough > now) {
        Some(enough) => {
            format!("raise spec.cache.managed.memory from {} to {}", cache.memory.0, mebibytes(enough as f64))
        }
        None => format!("raise spec.cache.managed.memory, which is {}", cache.memory.0),
    };
    format!("the cache is too small:{found} and it evicts {evicts} keys/s; {fix}")
}

/// Two digits, and zero for next to nothing.
fn rate_text(per_second: f64) -> String {
    if per_second < 0.05 {
        return "0".into();
    }
    let unit = 10_f64.powf(per_second.log10().floor() - 1.0);
    let rounded = (per_second / unit).round() * unit;
    if rounded < 10.0 { format!("{rounded:.1}") } else { format!("{rounded:.0}") }
}

fn same_rate(told: &str, per_second: f64) -> bool {
    let Ok(told) = told.parse::<f64>() else { return false };
    if told == 0.0 || per_second < 0.05 {
        return told == 0.0 && per_second < 0.05;
    }
    (told - per_second).abs() <= RATE_NEWS * told.max(per_second)
}

fn same_memory(told: &str, bytes: f64, limit_bytes: f64) -> bool {
    let told = quantity_bytes(&k8s_openapi::apimachinery::pkg::api::resource::Quantity(told.into()));
    let scale = if limit_bytes > 0.0 { limit_bytes } else { bytes };
    told.is_ok_and(|told| (told as f64 - bytes).abs() < MEMORY_NEWS * scale)
}

fn mebibytes(bytes: f64) -> String {
    let mebibytes = (bytes / MEBIBYTE).round();
    if mebibytes >= 10_240.0 { format!("{:.0}Gi", mebibytes / 1024.0) } else { format!("{mebibytes:.0}Mi") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_have_two_digits() {
        let texts = [0.0, 0.04, 0.11, 3.12, 12.6, 1234.0].map(rate_text);
        assert_eq!(texts, ["0", "0", "0.1", "3.1", "13", "1200"]);
    }

    #[test]
    fn a_rate_moves_when_it_begins_ends_or_has_changed_by_a_quarter() {
        assert!(same_rate("0", 0.01) && same_rate("12", 14.0));
        assert!(!same_rate("0", 0.2) && !same_rate("12", 0.0) && !same_rate("12", 18.0));
    }
}
