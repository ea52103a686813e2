using System.Text;

/// <summary>
/// ggml's format of a matrix, and what a block of random bytes in it needs to be weights: a value is the float16 scale times a
/// factor of this root mean square. Where the format has a minimum too, it is the scale times a number that makes the mean 0.
/// </summary>
public sealed record Format(string Name, uint Number, int Elements, int Bytes, int ScaleAt = 0, double Factor = 1, int MinimumAt = -1, double Minimum = 0)
{
    /// <summary>Root mean squares of uniform parts: 4 and 5 bits about their middle, int8, 6 bits with and without sign, the table of IQ4.</summary>
    private const double Bits4 = 4.61, Bits5 = 9.23, Byte = 73.9, Scale6 = 36.5, Signed6 = 18.5, Table = 67.4;

    public static readonly Format F32 = new("F32", 0, 1, 4), F16 = new("F16", 1, 1, 2), Q2_K = new("Q2_K", 10, 256, 84, 80, 8.8 * 1.118, 82, 1.5),
        Q4_K = new("Q4_K", 12, 256, 144, 0, Scale6 * Bits4, 2, 7.5), Q5_K = new("Q5_K", 13, 256, 176, 0, Scale6 * Bits5, 2, 15.5);

    public static readonly IReadOnlyList<Format> All =
    [
        F32, F16, Q2_K, Q4_K, Q5_K,
        new("Q4_0", 2, 32, 18, 0, Bits4), new("Q4_1", 3, 32, 20, 0, Bits4, 2, -7.5),
        new("Q5_0", 6, 32, 22, 0, Bits5), new("Q5_1", 7, 32, 24, 0, Bits5, 2, -15.5),
        new("Q8_0", 8, 32, 34, 0, Byte), new("Q3_K", 11, 256, 110, 108, Signed6 * 2.35), new("Q6_K", 14, 256, 210, 208, Byte * Signed6),
        new("IQ4_NL", 20, 32, 18, 0, Table), new("IQ4_XS", 23, 256, 136, 0, Signed6 * Table),
    ];
}

/// <summary>A tensor of a file: its shape as ggml has it, [columns, rows] or [columns].</summary>
public sealed record TensorEntry(string Name, long[] Shape, Format Format)
{
    public long Bytes => Shape.Aggregate((a, b) => a * b) / Format.Elements * Format.Bytes;
}

/// <summary>Writes GGUF files, version 3: metadata, then tensors at multiples of 32 bytes.</summary>
public static class GgufFile
{
    private const int Alignment = 32;

    private static long Aligned(long size) => (size + Alignment - 1) / Alignment * Alignment;

    private static void Text(BinaryWriter to, string value)
    {
        byte[] bytes = Encoding.UTF8.GetBytes(value);
        to.Write((ulong)bytes.Length);
        to.Write(bytes);
    }

    private static void Value(BinaryWriter to, object value)
    {
        void List<T>(uint kind, T[] items, Action<T> write)
        {
            to.Write(9u);
            to.Write(kind);
            to.Write((ulong)items.Length);
            Array.ForEach(items, write);
        }

        switch (value)
        {
            case uint number: to.Write(4u); to.Write(number); break;
            case float number: to.Write(6u); to.Write(number); break;
            case bool flag: to.Write(7u); to.Write(flag); break;
            case string text: to.Write(8u); Text(to, text); break;
            case int[] numbers: List(5, numbers, to.Write); break;
            case string[] texts: List(8, texts, text => Text(to, text)); break;
            default: throw new ArgumentException($"no GGUF value: {value.GetType()}");
        }
    }

    /// <summary>Writes the file; <paramref name="write"/> writes the bytes of one tensor.</summary>
    public static void Write(string path, IReadOnlyCollection<(string Key, object Value)> metadata, IReadOnlyCollection<TensorEntry> tensors,
        Action<Stream, TensorEntry> write)
    {
        using var file = new FileStream(path, FileMode.Create, FileAccess.Write, FileShare.None, 1 << 20);
        using var to = new BinaryWriter(file);
        to.Write("GGUF"u8);
        to.Write(3u);
        to.Write((ulong)tensors.Count);
        to.Write((ulong)metadata.Count);

        foreach (var (key, value) in metadata)
        {
            Text(to, key);
            Value(to, value);
        }

        long offset = 0;

        foreach (TensorEntry tensor in tensors)
        {
            Text(to, tensor.Name);
            to.Write((uint)tensor.Shape.Length);
            foreach (long size in tensor.Shape) to.Write((ulong)size);
            to.Write(tensor.Format.Number);
            to.Write((ulong)offset);
            offset += Aligned(tensor.Bytes);
        }

        foreach (TensorEntry tensor in tensors)
        {
            Pad();
            write(file, tensor);
        }

        Pad();

        void Pad() => file.Write(new byte[Aligned(file.Position) - file.Position]);
    }

    /// <summary>ggml's number of each tensor's format.</summary>
    public static IReadOnlyDictionary<string, uint> Formats(string path)
    {
        using BinaryReader from = new(File.OpenRead(path));
        from.ReadUInt64();
        ulong tensors = from.ReadUInt64(), entries = from.ReadUInt64();
        string Text() => Encoding.UTF8.GetString(from.ReadBytes((int)from.ReadUInt64()));

        void Skip(uint kind)
        {
            if (kind == 8) Text();
            else if (kind == 9) SkipList(from.ReadUInt32(), from.ReadUInt64());
            else from.ReadBytes(kind switch { 0 or 1 or 7 => 1, 2 or 3 => 2, 4 or 5 or 6 => 4, _ => 8 });
        }

        void SkipList(uint kind, ulong count)
        {
            for (ulong i = 0; i < count; i++) Skip(kind);
        }

        for (ulong i = 0; i < entries; i++)
        {
            Text();
            Skip(from.ReadUInt32());
        }

        Dictionary<string, uint> formats = [];

        for (ulong i = 0; i < tensors; i++)
        {
            string name = Text();
            from.ReadBytes(8 * (int)from.ReadUInt32());
            formats[name] = from.ReadUInt32();
            from.ReadUInt64();
        }

        return formats;
    }
}
