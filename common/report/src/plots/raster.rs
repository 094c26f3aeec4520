//! A plot as PNG: drawn larger and averaged, because the library smooths neither turned text nor steep lines.

use kuva::backend::png::PngBackend;
use kuva::render::render::{Primitive, Scene};
use png::{BitDepth, ColorType, Decoder, Encoder};

/// Pixels of a drawing that become one, along each side.
const FINER: usize = 3;
/// Scale from which on a drawing is fine enough by itself, and a finer one would take gigabytes.
const FINE: f32 = 4.0;

/// The scene as PNG with `scale` pixels per unit.
pub(super) fn png(scene: &Scene, scale: f32) -> Result<Vec<u8>, String> {
    if scale >= FINE {
        return draw(scene, scale);
    }
    average(&draw(scene, scale * FINER as f32)?).map_err(|error| error.to_string())
}

fn draw(scene: &Scene, scale: f32) -> Result<Vec<u8>, String> {
    // The library takes dashes for pixels, and so fine ones look like a line.
    let scene = Scene {
        elements: scene.elements.iter().cloned().map(|element| with_dashes(element, scale)).collect(),
        background_color: scene.background_color.clone(),
        text_color: scene.text_color.clone(),
        font_family: scene.font_family.clone(),
        ..Scene::new(scene.width, scene.height)
    };
    PngBackend::new().with_scale(scale).render_scene(&scene)
}

/// The element with its dashes in pixels.
fn with_dashes(mut element: Primitive, scale: f32) -> Primitive {
    let dashes = match &mut element {
        Primitive::Line { stroke_dasharray, .. } | Primitive::PolyLine { stroke_dasharray, .. } => {
            stroke_dasharray
        }
        Primitive::Path(path) => &mut path.stroke_dasharray,
        _ => return element,
    };
    if let Some(text) = dashes {
        let lengths = text.split([' ', ',']).filter_map(|length| length.parse::<f32>().ok());
        *text = lengths.map(|length| (length * scale).to_string()).collect::<Vec<_>>().join(" ");
    }
    element
}

/// The picture with the mean of every [`FINER`] by [`FINER`] pixels in their place; what is left over at the
/// right and lower edge is cut off.
fn average(bytes: &[u8]) -> Result<Vec<u8>, Box<dyn std::error::Error>> {
    let mut reader = Decoder::new(std::io::Cursor::new(bytes)).read_info()?;
    let mut pixels = vec![0; reader.output_buffer_size().ok_or("a picture too large to draw")?];
    let info = reader.next_frame(&mut pixels)?;
    let channels = info.color_type.samples();
    if info.bit_depth != BitDepth::Eight || info.color_type == ColorType::Indexed {
        return Err("a picture of another kind than was drawn".into());
    }
    let (wide, width, height) =
        (info.width as usize, info.width as usize / FINER, info.height as usize / FINER);
    let mut averaged = Vec::with_capacity(width * height * channels);
    for y in 0..height {
        for x in 0..width {
            for channel in 0..channels {
                let at =
                    |dy: usize, dx: usize| ((y * FINER + dy) * wide + x * FINER + dx) * channels + channel;
                let rows = (0..FINER).flat_map(|dy| (0..FINER).map(move |dx| (dy, dx)));
                let sum: usize = rows.map(|(dy, dx)| usize::from(pixels[at(dy, dx)])).sum();
                averaged.push((sum / (FINER * FINER)) as u8);
            }
        }
    }
    let mut png = Vec::new();
    let mut encoder = Encoder::new(&mut png, width as u32, height as u32);
    encoder.set_color(info.color_type);
    encoder.set_depth(BitDepth::Eight);
    encoder.write_header()?.write_image_data(&averaged)?;
    Ok(png)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture(width: u32, height: u32, pixels: &[u8]) -> Vec<u8> {
        let mut png = Vec::new();
        let mut encoder = Encoder::new(&mut png, width, height);
        encoder.set_color(ColorType::Grayscale);
        encoder.write_header().unwrap().write_image_data(pixels).unwrap();
        png
    }

    #[test]
    fn pixels_are_averaged_and_the_edge_is_cut_off() {
        let pixels: Vec<u8> =
            (0..4 * 7).map(|at| if at % 7 < 3 { 90 } else { (at % 7) as u8 * 10 }).collect();
        let averaged = average(&picture(7, 4, &pixels)).unwrap();
        let mut reader = Decoder::new(std::io::Cursor::new(&averaged)).read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut pixels).unwrap();
        assert_eq!((info.width, info.height, &pixels[..]), (2, 1, &[90, 40][..]));
    }

    #[test]
    fn a_dashed_line_has_the_gaps_of_the_svg() {
        use kuva::render::color::Color;
        let mut scene = Scene::new(100.0, 20.0);
        scene.background_color = Some("white".to_owned());
        scene.add(Primitive::Line {
            x1: 0.0,
            y1: 10.0,
            x2: 100.0,
            y2: 10.0,
            stroke: Color::from("black"),
            stroke_width: 2.0,
            stroke_dasharray: Some("6 4".to_owned()),
        });
        for scale in [1.0, 2.0, 4.0] {
            let png = png(&scene, scale).unwrap();
            let mut reader = Decoder::new(std::io::Cursor::new(&png)).read_info().unwrap();
            let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
            let info = reader.next_frame(&mut pixels).unwrap();
            let (wide, channels) = (info.width as usize, info.color_type.samples());
            let row = info.height as usize / 2;
            let light = |x: usize| pixels[(row * wide + x) * channels] > 128;
            let changes = (1..wide).filter(|x| light(*x) != light(x - 1)).count();
            // Ten dashes of six units, each with a gap of four behind it.
            assert!((17..=21).contains(&changes), "{changes} changes at scale {scale}");
            let gaps = (0..wide).filter(|x| light(*x)).count() as f64 / wide as f64;
            assert!((0.2..0.5).contains(&gaps), "{gaps} of the line is gaps at scale {scale}");
        }
    }

    #[test]
    fn what_is_no_picture_is_refused() {
        assert!(average(b"text").is_err());
    }
}
