using System.Runtime.InteropServices;
using LLama;
using LLama.Native;

/// <summary>A Llama's sizes, its head dimension being hidden / heads.</summary>
public sealed record Shape(int Hidden, int Layers, int Heads, int KvHeads, int Intermediate, int Vocabulary, bool Tied)
{
    /// <summary>Llama 3.2 1B and Llama 3.1 8B.</summary>
    public static readonly IReadOnlyDictionary<string, Shape> Known = new Dictionary<string, Shape>
    {
        ["1b"] = new(2048, 16, 32, 8, 8192, 128256, true),
        ["8b"] = new(4096, 32, 32, 8, 14336, 128256, false),
    };
}

/// <summary>
/// Files of seeded random weights, made as blocks: a random block is a fine weight, and a float16 source of 16 GB need not be.
/// Matrices have mean 0 and a standard deviation of about 0.02.
/// </summary>
public static class RandomModel
{
    private const double Deviation = 0.02;

    /// <summary>Writes a model of these sizes in a type as llama.cpp's quantiser knows it, each tensor in the format that it would choose.</summary>
    public static void Write(string path, Shape shape, LLamaFtype type, ulong seed)
    {
        IReadOnlyDictionary<string, uint> mix = Mix(shape, type);
        Write(path, shape, type, name => Format.All.First(format => format.Number == mix[name]), seed);
    }

    private static void Write(string path, Shape shape, LLamaFtype type, Func<string, Format> format, ulong seed)
    {
        ulong state = seed;
        GgufFile.Write(path, Metadata(shape, type), [.. Tensors(shape, format)], (to, tensor) => Fill(to, tensor, ref state));
    }

    /// <summary>The formats by name, learnt from a twin with small matrices, which llama.cpp quantises: its choice is by layer and kind of matrix.</summary>
    private static IReadOnlyDictionary<string, uint> Mix(Shape shape, LLamaFtype type)
    {
        DirectoryInfo folder = Directory.CreateTempSubdirectory("llama-bench-");

        try
        {
            string source = Path.Combine(folder.FullName, "source.gguf"), target = Path.Combine(folder.FullName, "target.gguf");
            Write(source, shape with { Hidden = 256, Intermediate = 256, Vocabulary = 512 }, LLamaFtype.ALL_F32, _ => Format.F32, 1);
            if (!LLamaQuantizer.Quantize(source, target, type)) throw new InvalidOperationException($"llama.cpp makes no {type}");
            return GgufFile.Formats(target);
        }
        finally
        {
            folder.Delete(true);
        }
    }

    private static IEnumerable<TensorEntry> Tensors(Shape shape, Func<string, Format> format)
    {
        int kv = shape.Hidden / shape.Heads * shape.KvHeads;
        TensorEntry Matrix(string name, long columns, long rows) => new($"{name}.weight", [columns, rows], format($"{name}.weight"));
        TensorEntry Norm(string name) => new($"{name}.weight", [shape.Hidden], Format.F32);

        yield return Matrix("token_embd", shape.Hidden, shape.Vocabulary);

        for (int i = 0; i < shape.Layers; i++)
        {
            yield return Norm($"blk.{i}.attn_norm");
            yield return Matrix($"blk.{i}.attn_q", shape.Hidden, shape.Hidden);
            yield return Matrix($"blk.{i}.attn_k", shape.Hidden, kv);
            yield return Matrix($"blk.{i}.attn_v", shape.Hidden, kv);
            yield return Matrix($"blk.{i}.attn_output", shape.Hidden, shape.Hidden);
            yield return Norm($"blk.{i}.ffn_norm");
            yield return Matrix($"blk.{i}.ffn_gate", shape.Hidden, shape.Intermediate);
            yield return Matrix($"blk.{i}.ffn_up", shape.Hidden, shape.Intermediate);
            yield return Matrix($"blk.{i}.ffn_down", shape.Intermediate, shape.Hidden);
        }

        yield return Norm("output_norm");
        if (!shape.Tied) yield return Matrix("output", shape.Hidden, shape.Vocabulary);
    }

    /// <summary>A tokenizer of the right size that merges nothing: the 256 bytes, then names that no text comes to.</summary>
    private static IReadOnlyCollection<(string, object)> Metadata(Shape shape, LLamaFtype type)
    {
        // GPT-2's spelling of bytes: a printable one is itself, the others follow from U+0100 on.
        bool Printable(int b) => b is > 32 and < 127 or > 160 and not 173;
        int others = 0;
        string[] bytes = [.. Enumerable.Range(0, 256).Select(b => ((char)(Printable(b) ? b : 256 + others++)).ToString())];
        string[] tokens = [.. bytes, .. Enumerable.Range(256, shape.Vocabulary - 256).Select(id => $"<{id}>")];

        return
        [
            ("general.architecture", "llama"),
            ("general.name", $"random weights in {type}"),
            ("general.file_type", (uint)type),
            ("general.quantization_version", 2u),
            ("llama.vocab_size", (uint)shape.Vocabulary),
            ("llama.context_length", 8192u),
            ("llama.embedding_length", (uint)shape.Hidden),
            ("llama.block_count", (uint)shape.Layers),
            ("llama.feed_forward_length", (uint)shape.Intermediate),
            ("llama.attention.head_count", (uint)shape.Heads),
            ("llama.attention.head_count_kv", (uint)shape.KvHeads),
            ("llama.attention.layer_norm_rms_epsilon", 1e-5f),
            ("llama.rope.dimension_count", (uint)(shape.Hidden / shape.Heads)),
            ("llama.rope.freq_base", 500000f),
            ("tokenizer.ggml.model", "gpt2"),
            ("tokenizer.ggml.pre", "llama-bpe"),
            ("tokenizer.ggml.tokens", tokens),
            ("tokenizer.ggml.token_type", tokens.Select((_, id) => id < 256 ? 1 : 3).ToArray()),
            ("tokenizer.ggml.merges", Array.Empty<string>()),
            ("tokenizer.ggml.bos_token_id", (uint)shape.Vocabulary - 2),
            ("tokenizer.ggml.eos_token_id", (uint)shape.Vocabulary - 1),
            ("tokenizer.ggml.add_bos_token", false),
        ];
    }

    private static void Fill(Stream to, TensorEntry tensor, ref ulong state)
    {
        if (tensor.Shape.Length == 1)
        {
            float[] ones = new float[tensor.Shape[0]];
            Array.Fill(ones, 1f);
            to.Write(MemoryMarshal.AsBytes<float>(ones));
            return;
        }

        const int Blocks = 4096;
        byte[] bytes = new byte[tensor.Format.Bytes * Blocks];

        for (long left = tensor.Bytes; left > 0; left -= bytes.Length)
        {
            foreach (ref ulong word in MemoryMarshal.Cast<byte, ulong>(bytes.AsSpan())) word = Next(ref state);
            for (int i = 0; i < Blocks; i++) ToWeights(tensor.Format, bytes.AsSpan(i * tensor.Format.Bytes, tensor.Format.Bytes));
            to.Write(bytes, 0, (int)Math.Min(left, bytes.Length));
        }
    }

    /// <summary>SplitMix64.</summary>
    private static ulong Next(ref ulong state)
    {
        ulong z = state += 0x9E3779B97F4A7C15;
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9;
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB;
        return z ^ (z >> 31);
    }

    /// <summary>Makes weights of a block of random bytes.</summary>
    private static void ToWeights(Format format, Span<byte> block)
    {
        if (format == Format.F32 || format == Format.F16)
        {
            // Uniform, of which the standard deviation is the width over the root of 12.
            double value = (BitConverter.ToUInt16(block) / 65535.0 - 0.5) * Math.Sqrt(12) * Deviation;
            if (format == Format.F32) MemoryMarshal.Write(block, (float)value);
            else MemoryMarshal.Write(block, (Half)value);
            return;
        }

        double scale = Deviation / format.Factor;

        if (format.MinimumAt < 0)
        {
            // Without a minimum the middle lies beside 0: on either side alike.
            MemoryMarshal.Write(block[format.ScaleAt..], (Half)(block[format.ScaleAt] < 128 ? scale : -scale));
            return;
        }

        MemoryMarshal.Write(block[format.ScaleAt..], (Half)scale);
        MemoryMarshal.Write(block[format.MinimumAt..], (Half)(format.Minimum * scale));

        // Each part's minimum has its scale's number: 4 bits of 16 parts in Q2_K, 6 of 8 in Q4_K and Q5_K.
        if (format == Format.Q2_K)
        {
            foreach (ref byte both in block[..16]) both = (byte)((both & 15) * 17);
        }
        else if (format == Format.Q4_K || format == Format.Q5_K)
        {
            block[4..8].CopyTo(block[8..]);
            foreach (ref byte both in block[12..16]) both = (byte)((both & 15) * 17);
        }
    }
}
