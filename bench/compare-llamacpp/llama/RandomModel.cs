using System.Runtime.InteropServices;

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

    /// <summary>Writes a model of these sizes: every matrix in Q8_0, or the mix that llama.cpp calls Q4_K_M.</summary>
    public static void Write(string path, Shape shape, string type, ulong seed)
    {
        Func<string, int, Format> format = type switch
        {
            "Q8_0" => (_, _) => Format.Q8_0,
            "Q4_K_M" => (name, layer) => MediumMix(name, layer, shape),
            _ => throw new ArgumentException($"random models are made in Q8_0 and Q4_K_M, not in {type}"),
        };

        ulong state = seed;
        GgufFile.Write(path, Metadata(shape, type), [.. Tensors(shape, format)], (to, tensor) => Fill(to, tensor, ref state));
    }

    /// <summary>Q6_K for the head, and for attn_v and ffn_down in the outer eighths and in every third layer between; else Q4_K.</summary>
    private static Format MediumMix(string name, int layer, Shape shape)
    {
        int eighth = shape.Layers / 8;
        bool more = layer < eighth || layer >= 7 * shape.Layers / 8 || (layer - eighth) % 3 == 2;

        return name switch
        {
            "output" => Format.Q6_K,
            "token_embd" when shape.Tied => Format.Q6_K,
            "attn_v" or "ffn_down" when more => Format.Q6_K,
            _ => Format.Q4_K,
        };
    }

    private static IEnumerable<TensorEntry> Tensors(Shape shape, Func<string, int, Format> format)
    {
        int kv = shape.Hidden / shape.Heads * shape.KvHeads;
        TensorEntry Norm(string name) => new($"{name}.weight", [shape.Hidden], Format.F32);

        yield return new("token_embd.weight", [shape.Hidden, shape.Vocabulary], format("token_embd", 0));

        for (int i = 0; i < shape.Layers; i++)
        {
            int layer = i;
            TensorEntry Matrix(string name, long columns, long rows) => new($"blk.{layer}.{name}.weight", [columns, rows], format(name, layer));

            yield return Norm($"blk.{i}.attn_norm");
            yield return Matrix("attn_q", shape.Hidden, shape.Hidden);
            yield return Matrix("attn_k", shape.Hidden, kv);
            yield return Matrix("attn_v", shape.Hidden, kv);
            yield return Matrix("attn_output", shape.Hidden, shape.Hidden);
            yield return Norm($"blk.{i}.ffn_norm");
            yield return Matrix("ffn_gate", shape.Hidden, shape.Intermediate);
            yield return Matrix("ffn_up", shape.Hidden, shape.Intermediate);
            yield return Matrix("ffn_down", shape.Intermediate, shape.Hidden);
        }

        yield return Norm("output_norm");
        if (!shape.Tied) yield return new("output.weight", [shape.Hidden, shape.Vocabulary], format("output", 0));
    }

    /// <summary>A tokenizer of the right size that merges nothing: the 256 bytes, then names that no text comes to.</summary>
    private static IReadOnlyCollection<(string, object)> Metadata(Shape shape, string type)
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
            ("general.file_type", type == "Q8_0" ? 7u : 15u),
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
        if (tensor.Format == Format.F32)
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
            for (int i = 0; i < Blocks; i++) Scale(tensor.Format, bytes.AsSpan(i * tensor.Format.Bytes, tensor.Format.Bytes));
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

    /// <summary>Gives a block of random bytes its float16 scales, by the deviation that its uniform parts have without.</summary>
    private static void Scale(Format format, Span<byte> block)
    {
        if (format == Format.Q8_0)
        {
            Half(block, 0, Deviation / 73.9);
        }
        else if (format == Format.Q6_K)
        {
            Half(block, 208, Deviation / (18.5 * 73.9));
        }
        else
        {
            // The least value of each 32 is its scale's again: with dmin = 7.5 d their mean is 0, d sc (q - 7.5).
            double d = Deviation / (36.5 * 4.61);
            Half(block, 0, d);
            Half(block, 2, 7.5 * d);
            Span<byte> scales = block[4..16];
            scales[..4].CopyTo(scales[4..]);
            foreach (ref byte upper in scales[8..]) upper = (byte)((upper & 15) * 17);
        }
    }

    private static void Half(Span<byte> block, int at, double value) => MemoryMarshal.Write(block[at..], (Half)value);
}
