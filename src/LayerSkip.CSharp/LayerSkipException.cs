using Microsoft.FSharp.Collections;

namespace LayerSkip.CSharp;

/// <summary>
/// What a caller can put right: a bad or missing file, an option out of range, a device that is not there, a model
/// whose numbers overflow while it generates.
/// The message is one line: what is wrong, where, what to do.
/// </summary>
public sealed class LayerSkipException : Exception
{
    internal LayerSkipException(LayerSkip.LayerSkipException inner)
        : this(inner, [.. inner.Errors.Select(Translate.InCallersWords)])
    {
    }

    private LayerSkipException(Exception inner, IReadOnlyList<LayerSkipError> faults)
        : base(LayerSkipErrorModule.summary(ListModule.OfSeq(faults)), inner) =>
        Faults = [.. faults.Select(LayerSkipErrorModule.message)];

    /// <summary>Every fault that was found, a line each.</summary>
    public IReadOnlyList<string> Faults { get; }
}
