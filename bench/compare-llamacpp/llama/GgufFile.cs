using System.Text;

/// <summary>ggml's formats that <see cref="RandomModel"/> makes: ggml's number, elements and bytes of a block.</summary>
public sealed record Format(uint Number, int Elements, int Bytes)
{
    public static readonly Format F32 = new(0, 1, 4), Q8_0 = new(8, 32, 34), Q4_K = new(12, 256, 144), Q6_K = new(14, 256, 210);
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
}
