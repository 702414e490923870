//! Where a repository lies: a directory, or with the feature `object-store` an address such as `s3://bucket/prefix`.

use crate::output::Failure;
use annulus::BackupRepository;
use std::path::Path;

/// A repository that is there, or is made.
pub fn open(place: &Path) -> Result<BackupRepository, Failure> {
    #[cfg(feature = "object-store")]
    if let Some(address) = address(place) {
        let storage = annulus::ObjectStorage::from_env(address)?;
        return Ok(BackupRepository::open_with(std::sync::Arc::new(storage))?);
    }
    // Without the feature an address is refused with what is needed.
    Ok(BackupRepository::open(place)?)
}

/// A repository that is there: one that is only read from is never made by a slip of the pen.
pub fn existing(place: &Path) -> Result<BackupRepository, Failure> {
    let there = match address(place) {
        #[cfg(feature = "object-store")]
        Some(address) => {
            use annulus::Storage;
            annulus::ObjectStorage::from_env(address)?.read("REPOSITORY")?.is_some()
        }
        #[cfg(not(feature = "object-store"))]
        Some(_) => true,
        None => {
            let failed = Failure::io(format!("look for the repository at {}", place.display()));
            place.join("REPOSITORY").try_exists().map_err(failed)?
        }
    };
    match there {
        true => open(place),
        false => Err(Failure::Missing(format!("there is no backup repository at {}", place.display()))),
    }
}

/// The place, if it is an address. A directory of such a name is found as `./NAME`.
fn address(place: &Path) -> Option<&str> {
    let text = place.to_str()?;
    let (scheme, _) = text.split_once("://")?;
    (scheme.len() > 1 && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric())).then_some(text)
}
