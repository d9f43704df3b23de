//! Pictures as PNG. QEMU 7.1 and newer give PNG; older ones PPM, as libvirt then passes it on.

/// Why a picture cannot be shown.
#[derive(Debug, thiserror::Error)]
pub(super) enum BadPicture {
    /// Neither PNG nor a PPM of our kind.
    #[error("it gave a picture that is neither PNG nor PPM")]
    Unknown,
    /// It does not hold as many points as it says.
    #[error("it gave only a part of a picture")]
    Short,
    /// It could not be written.
    #[error("its picture cannot be written as PNG: {0}")]
    Unwritable(#[from] png::EncodingError),
}

const PNG: &[u8] = b"\x89PNG\r\n\x1a\n";

/// The picture as PNG.
pub(super) fn to_png(picture: Vec<u8>) -> Result<Vec<u8>, BadPicture> {
    if picture.starts_with(PNG) {
        return Ok(picture);
    }
    let (width, height, points) = ppm(&picture)?;
    let mut png = Vec::new();
    let mut encoder = png::Encoder::new(&mut png, width, height);
    encoder.set_color(png::ColorType::Rgb);
    let mut writer = encoder.write_header()?;
    writer.write_image_data(points)?;
    writer.finish()?;
    Ok(png)
}

/// The binary form with 8 bits a colour: `P6`, width, height, 255, one white space, points.
/// <https://netpbm.sourceforge.net/doc/ppm.html>
fn ppm(picture: &[u8]) -> Result<(u32, u32, &[u8]), BadPicture> {
    let mut rest = picture.strip_prefix(b"P6").ok_or(BadPicture::Unknown)?;
    let mut numbers = [0u32; 3];
    for number in &mut numbers {
        let (read, after) = next_number(rest).ok_or(BadPicture::Unknown)?;
        *number = read;
        rest = after;
    }
    let [width, height, 255] = numbers else {
        return Err(BadPicture::Unknown);
    };
    let points = rest.get(1..).unwrap_or_default();
    let wanted = u64::from(width) * u64::from(height) * 3;
    let wanted = usize::try_from(wanted).map_err(|_| BadPicture::Short)?;
    let points = points.get(..wanted).ok_or(BadPicture::Short)?;
    if width == 0 || height == 0 {
        return Err(BadPicture::Short);
    }
    Ok((width, height, points))
}

/// Skips white space and comments, and reads a number of at most five digits.
fn next_number(mut text: &[u8]) -> Option<(u32, &[u8])> {
    loop {
        match text.first()? {
            b'#' => text = &text[text.iter().position(|byte| *byte == b'\n')?..],
            byte if byte.is_ascii_whitespace() => text = &text[1..],
            _ => break,
        }
    }
    let digits = text
        .iter()
        .take(6)
        .take_while(|byte| byte.is_ascii_digit())
        .count();
    let number = std::str::from_utf8(&text[..digits]).ok()?.parse().ok()?;
    (digits <= 5).then_some((number, &text[digits..]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_ppm_becomes_a_png_with_the_same_points() {
        let points = [1, 2, 3, 4, 5, 6];
        let picture = [b"P6 # made by hand\n2 1\n255\n", &points[..]].concat();
        let png = to_png(picture).unwrap();
        let mut reader = png::Decoder::new(std::io::Cursor::new(png))
            .read_info()
            .unwrap();
        let mut read = vec![0; 6];
        let info = reader.next_frame(&mut read).unwrap();
        assert_eq!((info.width, info.height), (2, 1));
        assert_eq!(read, points);
    }

    #[test]
    fn a_png_is_passed_on() {
        let png = [PNG, b"rest"].concat();
        assert_eq!(to_png(png.clone()).unwrap(), png);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(head in "P6 ?[0-9 #\n]{0,30}", tail: Vec<u8>) {
            let _either = to_png([head.as_bytes(), &tail].concat());
        }
    }
}
