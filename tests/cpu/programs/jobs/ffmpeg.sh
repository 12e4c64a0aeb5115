# Encoders and decoders of many kinds over the same pictures and sound; their assembly is chosen by the CPU's features.
# SPDX-License-Identifier: GPL-2.0-or-later
# timeout: 600
set -e
ff() { ffmpeg -nostdin -hide_banner -loglevel error -y "$@"; }
ff -f lavfi -i testsrc2=size=352x288:rate=25:duration=2 -pix_fmt yuv420p -bitexact source.y4m
ff -f lavfi -i "aevalsrc=0.4*sin(440*2*PI*t)+0.3*sin(t*t*900)|0.5*cos(3000*t):s=44100:d=3" -c:a pcm_s16le -bitexact source.wav
sha256sum source.y4m source.wav
for codec in mpeg1video mpeg2video mpeg4 msmpeg4 h263p flv mjpeg ljpeg ffv1 huffyuv ffvhuff utvideo png snow vp8 dnxhd prores "prores_ks" jpeg2000 cinepak dvvideo gif "libx264 -preset medium -threads 1" "libx264 -preset veryslow -threads 1" \
    "libx265 -preset fast -x265-params log-level=error:pools=1:frame-threads=1" "libvpx -deadline good -cpu-used 2 -threads 1 -b:v 500k" "libvpx-vp9 -deadline good -cpu-used 4 -threads 1 -b:v 500k" "libaom-av1 -cpu-used 8 -threads 1 -b:v 300k" libtheora; do
    set -- $codec
    name=$1
    shift
    echo "== $codec"
    options=
    case $name in
    h263p|flv|msmpeg4) options="-b:v 600k" ;;
    dnxhd) options="-s 1920x1080 -r 25 -b:v 120M -frames:v 5 -pix_fmt yuv422p" ;;
    prores*) options="-frames:v 10 -pix_fmt yuv422p10le" ;;
    dvvideo) options="-s 720x576 -frames:v 10" ;;
    snow) options="-strict -2 -frames:v 10" ;;
    jpeg2000|gif|libaom-av1|cinepak) options="-frames:v 12" ;;
    mjpeg|ljpeg) options="-pix_fmt yuvj420p" ;;
    esac
    # shellcheck disable=SC2086
    if ff -i source.y4m $options -c:v "$name" "$@" -flags +bitexact -fflags +bitexact -an coded.nut; then
        sha256sum <coded.nut
        ff -i coded.nut -fflags +bitexact -f framemd5 - | grep -v '^#' | sha256sum
        ff -threads 2 -i coded.nut -fflags +bitexact -f framemd5 - | grep -v '^#' | sha256sum
    else
        echo "not encoded"
    fi
done
for codec in "flac -compression_level 8" alac wavpack adpcm_ms adpcm_ima_wav pcm_alaw tta mp2 ac3_fixed; do
    set -- $codec
    echo "== $codec"
    if ff -i source.wav -c:a "$@" -flags +bitexact -fflags +bitexact sound.mkv; then
        sha256sum <sound.mkv
        ff -i sound.mkv -fflags +bitexact -f framemd5 - | grep -v '^#' | sha256sum
    else
        echo "not encoded"
    fi
done
for filter in "scale=640:480:flags=bicubic" "scale=200:150:flags=lanczos+accurate_rnd" "yadif" "hqdn3d" "unsharp" "gblur=sigma=2" "rotate=0.3" "transpose=1" \
    "format=rgb24,format=yuv444p" "eq=contrast=1.2" "boxblur=3" "edgedetect" "deshake" "noise=alls=10:all_seed=3" "overlay" "convolution" "minterpolate=fps=30:mi_mode=blend"; do
    case $filter in overlay) filter="split[a][b];[a]scale=100:80[c];[b][c]overlay=20:30" ;; esac
    echo "== $filter"
    ff -i source.y4m -frames:v 20 -filter_complex "$filter" -sws_flags +bitexact+accurate_rnd -fflags +bitexact -f framemd5 - | grep -v '^#' | sha256sum
done
for filter in "aresample=48000:resampler=swr" "volume=0.5" "atempo=1.3" "afade=d=1" "aecho" "pan=mono|c0=0.5*c0+0.5*c1"; do
    echo "== $filter"
    ff -i source.wav -af "$filter" -c:a pcm_s16le -fflags +bitexact -f framemd5 - | grep -v '^#' | sha256sum
done
