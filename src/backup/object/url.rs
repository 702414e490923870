//! Addresses of repositories: `s3://bucket/prefix` and the like.

use super::ObjectStorage;
use crate::error::{Error, Result};
use object_store::ObjectStoreScheme as Scheme;
use object_store::local::LocalFileSystem;
use object_store::{ObjectStore, parse_url_opts};
use std::sync::Arc;
use url::Url;

/// How a request is bounded unless an option says otherwise: an object has up to 65 MiB, and lines are slow.
const TIMEOUT: (&str, &str) = ("timeout", "300s");

/// The variables that are looked at for options begin with one of these.
const VARIABLES: [&str; 3] = ["AWS_", "GOOGLE_", "AZURE_"];

impl ObjectStorage {
    /// What an address stands for: `s3://bucket/prefix`, `gs://bucket/prefix`, `az://container/prefix` (`abfs`, and the `https` addresses
    /// of Amazon and Azure, as well), `file:///dir`, `memory:///`. Each needs its feature: `s3`, `gcs`, `azure`; the last two none. `options`
    /// are those of the crate `object_store` for that storage, such as `region`, `endpoint`, `access_key_id`, `allow_http` or `timeout`.
    ///
    /// A directory is better opened by [`BackupRepository::open`](crate::BackupRepository::open), which has a lock that ends with its process.
    ///
    /// # Errors
    /// `InvalidInput` for an address that is none, one whose feature is missing, and for options that are not known or contradict each other.
    pub fn parse<K, V>(url: &str, options: impl IntoIterator<Item = (K, V)>) -> Result<ObjectStorage>
    where
        K: AsRef<str>,
        V: Into<String>,
    {
        let (scheme, parsed) = scheme(url)?;
        let mut all = vec![(TIMEOUT.0.to_owned(), TIMEOUT.1.to_owned())];
        for (key, value) in options {
            let key = key.as_ref().to_ascii_lowercase();
            if !is_option(&scheme, &key) {
                let text = format!("{key:?} is not an option of the storage at {}", shown(&parsed));
                return Err(Error::invalid(text).remedy("see the options of the crate object_store"));
            }
            all.push((key, value.into()));
        }
        open(&scheme, &parsed, all)
    }

    /// As [`parse`](Self::parse), with options from the environment: `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_REGION`,
    /// `AWS_ENDPOINT`, `AWS_ALLOW_HTTP`, `GOOGLE_SERVICE_ACCOUNT`, `AZURE_STORAGE_ACCOUNT_NAME`, `AZURE_STORAGE_ACCOUNT_KEY`, and what else begins
    /// like these and is an option. Where there are none, the machine's own identity is used, if it has one.
    ///
    /// # Errors
    /// As `parse`.
    pub fn from_env(url: &str) -> Result<ObjectStorage> {
        let (scheme, parsed) = scheme(url)?;
        let mut all = vec![(TIMEOUT.0.to_owned(), TIMEOUT.1.to_owned())];
        for (key, value) in std::env::vars_os() {
            let (Ok(key), Ok(value)) = (key.into_string(), value.into_string()) else { continue };
            let lower = key.to_ascii_lowercase();
            if VARIABLES.iter().any(|start| key.starts_with(start)) && is_option(&scheme, &lower) {
                all.push((lower, value));
            }
        }
        open(&scheme, &parsed, all)
    }
}

fn open(scheme: &Scheme, url: &Url, options: Vec<(String, String)>) -> Result<ObjectStorage> {
    let failed = |e| {
        Error::invalid(format!("cannot use the storage at {}", shown(url)))
            .remedy("check the address and the options")
            .caused_by(e)
    };
    let (store, root) = parse_url_opts(url, options).map_err(failed)?;
    let store: Arc<dyn ObjectStore> = match scheme {
        // What was written must be durable.
        Scheme::Local => Arc::new(LocalFileSystem::new().with_fsync(true)),
        _ => Arc::from(store),
    };
    ObjectStorage::at(store, root, shown(url))
}

/// An address without what is secret in it.
fn shown(url: &Url) -> String {
    let mut url = url.clone();
    // Fails where there is none.
    let _ = url.set_password(None);
    url.set_query(None);
    url.set_fragment(None);
    url.to_string()
}

fn scheme(text: &str) -> Result<(Scheme, Url)> {
    let refused = |why: String, what: &str| Err(Error::invalid(why).remedy(what));
    let addresses = "use an address such as s3://bucket/prefix, gs://bucket/prefix or az://container/prefix";
    let Ok(url) = Url::parse(text) else {
        return refused(format!("{text:?} is not the address of an object storage"), addresses);
    };
    if url.scheme() == "hdfs" {
        let what =
            "make the store with the crate hdfs-native-object-store, and give it to ObjectStorage::new";
        return refused("hdfs:// is not among the addresses that are understood".to_owned(), what);
    }
    let scheme = match Scheme::parse(&url) {
        Ok((scheme, _)) => scheme,
        Err(_) => {
            return refused(format!("{:?} is not the address of an object storage", shown(&url)), addresses);
        }
    };
    let (is_there, feature) = match scheme {
        Scheme::Local | Scheme::Memory => (true, ""),
        Scheme::AmazonS3 => (cfg!(feature = "s3"), "s3"),
        Scheme::GoogleCloudStorage => (cfg!(feature = "gcs"), "gcs"),
        Scheme::MicrosoftAzure => (cfg!(feature = "azure"), "azure"),
        _ => return refused(format!("{:?} is not the address of an object storage", shown(&url)), addresses),
    };
    if !is_there {
        let what = format!("build with the feature `{feature}`");
        return refused(
            format!("{} needs a feature that this program was built without", shown(&url)),
            &what,
        );
    }
    Ok((scheme, url))
}

/// Whether the storage has an option of that name.
fn is_option(scheme: &Scheme, key: &str) -> bool {
    let _ = key;
    match scheme {
        #[cfg(feature = "s3")]
        Scheme::AmazonS3 => key.parse::<object_store::aws::AmazonS3ConfigKey>().is_ok(),
        #[cfg(feature = "gcs")]
        Scheme::GoogleCloudStorage => key.parse::<object_store::gcp::GoogleConfigKey>().is_ok(),
        #[cfg(feature = "azure")]
        Scheme::MicrosoftAzure => key.parse::<object_store::azure::AzureConfigKey>().is_ok(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backup::Storage;
    use crate::error::ErrorKind;
    use std::path::Path;

    fn none() -> [(&'static str, &'static str); 0] {
        []
    }

    #[test]
    fn what_is_no_address_is_refused_with_what_to_do() {
        for bad in ["", "/backup", "hdfs://namenode/backup", "https://example.com/x", "ftp://x/y", "s3:/x"] {
            let error = ObjectStorage::parse(bad, none()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{bad}");
            assert!(error.advice().is_some(), "{bad}");
        }
        let features =
            [("s3", cfg!(feature = "s3")), ("gs", cfg!(feature = "gcs")), ("az", cfg!(feature = "azure"))];
        for (scheme, is_there) in features {
            if !is_there {
                let error = ObjectStorage::parse(&format!("{scheme}://bucket/x"), none()).unwrap_err();
                assert!(error.advice().unwrap().contains("feature"), "{error}");
            }
        }
        let error = ObjectStorage::parse("memory:///x", [("regoin", "here")]).unwrap_err();
        assert!(error.to_string().contains("regoin"), "{error}");
    }

    #[test]
    fn an_address_names_objects() {
        let storage = ObjectStorage::parse("memory:///a/b", none()).unwrap();
        storage.write("objects/1", b"x").unwrap();
        assert_eq!(storage.describe("objects/1"), Path::new("memory:///a/b/objects/1"));
        assert_eq!(storage.shared.root.as_ref(), "a/b");
        let secret = Url::parse("s3://me:secret@bucket/x?key=secret#secret").unwrap();
        assert_eq!(shown(&secret), "s3://me@bucket/x");
    }

    #[cfg(feature = "s3")]
    #[test]
    fn an_address_of_s3_takes_its_options() {
        let options =
            [("region", "eu-central-1"), ("AWS_ENDPOINT", "http://localhost:1"), ("allow_http", "true")];
        let storage = ObjectStorage::parse("s3://bucket/a", options).unwrap();
        assert_eq!(storage.describe("x"), Path::new("s3://bucket/a/x"));
        assert!(ObjectStorage::parse("s3://bucket/a", [("regoin", "x")]).is_err());
    }
}
