namespace LayerSkip.CSharp;

/// <summary>What loading does just now.</summary>
public enum LoadStage
{
    /// <summary>Fetches files from a hub.</summary>
    Downloading,

    /// <summary>Reads weights from files.</summary>
    Reading,

    /// <summary>The model is there.</summary>
    Done,
}

/// <summary>How far loading is.</summary>
public sealed record LoadProgress
{
    /// <summary>What it does.</summary>
    public LoadStage Stage { get; init; }

    /// <summary>The file that it fetches; null while it reads.</summary>
    public string? File { get; init; }

    /// <summary>Bytes of this stage that are done.</summary>
    public long BytesDone { get; init; }

    /// <summary>All bytes of this stage; null where that is not known.</summary>
    public long? BytesTotal { get; init; }
}
