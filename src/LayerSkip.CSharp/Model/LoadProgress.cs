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

    /// <summary>Bytes of this stage that are done.</summary>
    public long BytesDone { get; init; }

    /// <summary>All bytes of this stage; null where that is not known.</summary>
    public long? BytesTotal { get; init; }

    /// <summary>Of a download: files that are here.</summary>
    public int FilesDone { get; init; }

    /// <summary>Of a download: all files.</summary>
    public int FilesTotal { get; init; }
}
