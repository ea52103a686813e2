namespace LayerSkip.CSharp;

/// <summary>One thing that is wrong.</summary>
public sealed record LayerSkipFault
{
    /// <summary>What kind of fault it is.</summary>
    public required LayerSkipErrorCode Code { get; init; }

    /// <summary>One line: what is wrong, where, what to do.</summary>
    public required string Message { get; init; }

    /// <summary>The property of the options that is at fault, as C# spells it ("ExitLayer"), or a parameter ("task"); null where none is.</summary>
    public string? OptionName { get; init; }

    /// <summary>The message.</summary>
    public override string ToString() => Message;
}
