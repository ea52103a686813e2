namespace LayerSkip.CSharp;

/// <summary>
/// An answer of a model that may call tools, as it comes: its text, without what may be the beginning of a call until that is known. A piece
/// costs no more than its own length. For one thread at a time.
/// </summary>
public sealed class ToolCallStream
{
    private LayerSkip.ToolStream stream = ToolStreamModule.start;

    /// <summary>What has come and was not let through. Once all has come, <see cref="ChatTurn.OfAnswer"/> reads the calls in it.</summary>
    public string Held => ToolStreamModule.held(stream);

    /// <summary>The text that is certainly no call, now that this has come too; often none, or more than this.</summary>
    public string Push(string text)
    {
        ArgumentNullException.ThrowIfNull(text);
        var (certain, next) = ToolStreamModule.push(text, stream);
        stream = next;
        return certain;
    }
}
