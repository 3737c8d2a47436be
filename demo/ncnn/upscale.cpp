// Enlarges a picture with a network that `srkd export --ncnn` wrote:
//
//     upscale student.param photo.ppm enlarged.ppm [threads]
//
// An app does the same: load the network once, then for each picture (or tile) pixels -> "data" -> "output" -> pixels.

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <string>
#include <vector>

#include "net.h"

// ncnn is built without exceptions, and so are programs that link it: an error ends this one with one line.
[[noreturn]] static void stop(const std::string& why)
{
    std::fprintf(stderr, "upscale: %s\n", why.c_str());
    std::exit(1);
}

struct Picture {
    int width = 0;
    int height = 0;
    std::vector<unsigned char> rgb;  // 3 bytes a pixel, row by row
};

// Returns the next number of a PPM header; comments start with # and end with the line.
static int header_number(std::istream& in)
{
    while (in >> std::ws && in.peek() == '#') {
        std::string comment;
        std::getline(in, comment);
    }
    int number = 0;
    in >> number;
    return number;
}

static Picture read_ppm(const std::string& path)
{
    std::ifstream in(path, std::ios::binary);
    char magic[2] = {0, 0};
    in.read(magic, 2);
    if (!in || magic[0] != 'P' || magic[1] != '6') {
        stop(path + " is not a readable binary PPM (P6)");
    }
    Picture picture;
    picture.width = header_number(in);
    picture.height = header_number(in);
    const int max_value = header_number(in);
    if (!in || picture.width < 1 || picture.height < 1 || picture.width > 32768 || picture.height > 32768 || max_value != 255) {
        stop(path + " is not a PPM of 8 bits a channel, at most 32768 pixels a side");
    }
    in.get();  // the one white space after the header
    picture.rgb.resize(static_cast<size_t>(picture.width) * picture.height * 3);
    in.read(reinterpret_cast<char*>(picture.rgb.data()), static_cast<std::streamsize>(picture.rgb.size()));
    if (!in) {
        stop(path + " ends too early");
    }
    return picture;
}

static void write_ppm(const Picture& picture, const std::string& path)
{
    std::ofstream out(path, std::ios::binary);
    out << "P6\n" << picture.width << " " << picture.height << "\n255\n";
    out.write(reinterpret_cast<const char*>(picture.rgb.data()), static_cast<std::streamsize>(picture.rgb.size()));
    out.close();
    if (!out) {
        stop(path + " cannot be written");
    }
}

static void load(ncnn::Net& net, const std::string& param, int threads)
{
    net.opt.num_threads = threads;
    // Plain fp32, for comparisons. Remove these three lines on a phone: ncnn then stores and computes in fp16 if the
    // processor supports it, which is faster and takes half the memory.
    net.opt.use_fp16_packed = false;
    net.opt.use_fp16_storage = false;
    net.opt.use_fp16_arithmetic = false;
    const size_t dot = param.rfind(".param");
    if (dot == std::string::npos || dot + 6 != param.size()) {
        stop(param + " does not end in .param");
    }
    const std::string bin = param.substr(0, dot) + ".bin";
    if (net.load_param(param.c_str()) != 0 || net.load_model(bin.c_str()) != 0) {
        stop(param + " and " + bin + " cannot be loaded by this ncnn");
    }
}

static Picture enlarge(const ncnn::Net& net, const Picture& picture)
{
    // ncnn stores pictures plane by plane; the network takes RGB in 0..1.
    ncnn::Mat lr(picture.width, picture.height, 3);
    for (int channel = 0; channel < 3; channel++) {
        float* plane = lr.channel(channel);
        const size_t pixels = static_cast<size_t>(picture.width) * picture.height;
        for (size_t i = 0; i < pixels; i++) {
            plane[i] = picture.rgb[3 * i + channel] / 255.f;
        }
    }

    ncnn::Extractor extractor = net.create_extractor();
    ncnn::Mat sr;
    if (extractor.input("data", lr) != 0 || extractor.extract("output", sr) != 0) {
        stop("the network does not run on this picture (memory, or blobs of other names)");
    }
    if (sr.c != 3 || sr.w % picture.width != 0 || sr.h % picture.height != 0) {
        stop("the network does not return an enlarged RGB picture: is it for one channel or one size?");
    }
    Picture result;
    result.width = sr.w;
    result.height = sr.h;
    result.rgb.resize(static_cast<size_t>(sr.w) * sr.h * 3);
    for (int channel = 0; channel < 3; channel++) {
        const float* plane = sr.channel(channel);
        const size_t pixels = static_cast<size_t>(sr.w) * sr.h;
        for (size_t i = 0; i < pixels; i++) {
            const float clamped = std::min(std::max(plane[i], 0.f), 1.f);
            result.rgb[3 * i + channel] = static_cast<unsigned char>(std::lround(clamped * 255.f));
        }
    }
    return result;
}

int main(int argc, char** argv)
{
    if (argc < 4 || argc > 5) {
        std::fprintf(stderr, "usage: %s NETWORK.param INPUT.ppm OUTPUT.ppm [THREADS]\n", argv[0]);
        return 2;
    }
    ncnn::Net net;
    load(net, argv[1], argc == 5 ? std::max(1, std::atoi(argv[4])) : 1);
    write_ppm(enlarge(net, read_ppm(argv[2])), argv[3]);
    return 0;
}
