//! Files of the web: kept under the hash that their address gives, and held against it whenever they are taken.

use crate::address::WebFile;
use crate::checksum::check_file;
use crate::error::FetchError;
use crate::http::Http;
use crate::settings::Settings;
use crate::transfer::Transfer;
use crate::{Found, Progress};

pub(crate) async fn fetch(
    file: &WebFile,
    settings: &Settings,
    progress: Progress<'_>,
) -> Result<Found, FetchError> {
    let (kind, digits) = file.checksum.parts();
    let place = settings.web_cache.join(format!("{kind}-{digits}")).join(&file.name);
    let found = || Found { path: place.clone(), origin: Some(file.to_string()), note: None };
    if place.is_file() {
        if check_file(&place, &file.checksum).is_ok() {
            return Ok(found());
        }
        // Damaged since. It is loaded again.
        let _ = std::fs::remove_file(&place);
    }
    let transfer = Transfer {
        address: file.to_string(),
        url: file.url.clone(),
        length: None,
        checksum: Some(file.checksum.clone()),
        place: &place,
        by_hand: place.clone(),
    };
    if settings.offline {
        return Err(transfer.unreachable("HF_HUB_OFFLINE is set, and it is not here".to_owned()));
    }
    transfer.run(&Http::new(None)?, progress).await?;
    Ok(found())
}
