//! `pitstop image`

use super::fail::Fail;
use super::out::Tone;
use super::table::{Column, Table};
use super::{Context, Result};
use pitstop_wire::api::Image;
use pitstop_wire::text::machines;
use std::path::PathBuf;

#[derive(Debug, clap::Subcommand)]
pub enum Verb {
    /// Images that may be asked for.
    Ls,
    /// One image.
    Show {
        /// Its name.
        name: String,
    },
    /// Add an image from a file, raw or zstd.
    Add {
        /// Its name from now on.
        name: String,
        /// The file.
        file: PathBuf,
        /// Where the host agent's seed goes: `none`, or OFFSET,LENGTH in bytes; found by itself unless said.
        #[arg(long)]
        seed: Option<String>,
        /// Where the name stands for another image, take it away from that one.
        #[arg(long)]
        replace: bool,
    },
    /// Hand a suspected image out again: what it failed at is mended (admin).
    Trust {
        /// Its name.
        name: String,
    },
    /// Remove an image.
    Rm {
        /// Its name.
        name: String,
    },
    /// Build the kernel and initrd that machines boot the agent from; needs no daemon.
    Agent(super::image_agent::Args),
}

pub async fn run(cx: &mut Context, verb: Verb) -> Result {
    match verb {
        Verb::Ls => {
            let images = cx.client.images().await?;
            cx.out.list(&images, &images.images, &IMAGES)
        }
        Verb::Show { name } => show(cx, &cx.client.image(&name).await?),
        Verb::Add { name, file, seed, replace } => {
            let opened = tokio::fs::File::open(&file).await;
            let opened =
                opened.map_err(|e| Fail::usage(format!("{} cannot be read: {e}", file.display())))?;
            let image = cx.client.add_image(&name, opened, seed.as_deref(), replace, cx.key.clone()).await?;
            show(cx, &image)
        }
        Verb::Trust { name } => {
            let done = cx.client.trust_image(&name, cx.key.clone()).await?;
            cx.out.object(&done, &name, |out| out.line(&done.text))
        }
        Verb::Rm { name } => {
            let done = cx.client.remove_image(&name, cx.key.clone()).await?;
            cx.out.object(&done, &name, |out| out.line(&done.text))
        }
        Verb::Agent(args) => super::image_agent::run(cx, args).await,
    }
}

fn show(cx: &Context, image: &Image) -> Result {
    cx.out.object(image, &image.name, |out| {
        out.line(&format!("{}   {} bytes", image.name, image.bytes))?;
        out.line(&format!("  digest    {}", image.digest))?;
        let seed =
            if image.seed { "has a place for the host agent" } else { "none: no host agent in this image" };
        out.line(&format!("  seed      {seed}"))?;
        out.line(&format!("  default   of {}", machines(image.default_of)))?;
        let next =
            format!("  → pitstop image add {0} FILE --replace, or pitstop image trust {0}", image.name);
        image.suspected.iter().try_for_each(|text| out.line(&format!("  ▲ {text}{next}")))
    })
}

static IMAGES: Table<Image> = Table {
    name: |i| i.name.clone(),
    csv: &[
        ("image", |i| i.name.clone()),
        ("bytes", |i| i.bytes.to_string()),
        ("seed", |i| i.seed.to_string()),
        ("suspected", |i| (!i.suspected.is_empty()).to_string()),
        ("default_of", |i| i.default_of.to_string()),
        ("digest", |i| i.digest.clone()),
    ],
    columns: &[
        Column { title: "IMAGE", wide: false, cell: |i, _| (i.name.clone(), Tone::Plain) },
        Column { title: "BYTES", wide: false, cell: |i, _| (i.bytes.to_string(), Tone::Plain) },
        Column {
            title: "SEED",
            wide: false,
            cell: |i, _| (if i.seed { "yes" } else { "no" }.to_owned(), Tone::Plain),
        },
        Column {
            title: "STATE",
            wide: false,
            cell: |i, _| match i.suspected.is_empty() {
                true => ("good".to_owned(), Tone::Plain),
                false => ("suspected".to_owned(), Tone::Bad),
            },
        },
        Column { title: "DEFAULT OF", wide: false, cell: |i, _| (i.default_of.to_string(), Tone::Plain) },
        Column { title: "DIGEST", wide: false, cell: |i, _| (i.digest.clone(), Tone::Dim) },
    ],
};
