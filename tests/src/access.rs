//! Which cluster is meant, and a client for it.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

/// A cluster, by kubeconfig and context.
#[derive(Clone, Debug)]
pub struct Access {
    /// `None`: the user's own, as `KUBECONFIG` says.
    pub kubeconfig: Option<PathBuf>,
    /// `None`: the kubeconfig's current one.
    pub context: Option<String>,
}

impl Access {
    /// The local cluster.
    pub fn local() -> Self {
        Self { kubeconfig: Some(crate::cluster::layout::kubeconfig()), context: None }
    }

    /// A context of the user's own kubeconfig.
    pub fn context(name: &str) -> Self {
        Self { kubeconfig: None, context: Some(name.to_owned()) }
    }

    /// A client with the rights of the kubeconfig.
    ///
    /// # Errors
    /// When there is no such file or context.
    pub async fn client(&self) -> Result<Client> {
        let kubeconfig = match &self.kubeconfig {
            Some(path) => Kubeconfig::read_from(path).with_context(|| format!("read {}", path.display()))?,
            None => Kubeconfig::read().context("read your kubeconfig")?,
        };
        if let Some(context) = &self.context
            && !kubeconfig.contexts.iter().any(|known| known.name == *context)
        {
            let known: Vec<&str> = kubeconfig.contexts.iter().map(|known| known.name.as_str()).collect();
            bail!("your kubeconfig has no context {context:?}; it has: {}", known.join(", "));
        }
        let options = KubeConfigOptions { context: self.context.clone(), ..KubeConfigOptions::default() };
        let mut config = Config::from_custom_kubeconfig(kubeconfig, &options)
            .await
            .context("read the kubeconfig's context")?;
        config.connect_timeout = Some(Duration::from_secs(10));
        Client::try_from(config).context("make a client")
    }
}
