using Microsoft.FSharp.Collections;

namespace LayerSkip.CSharp;

/// <summary>
/// What a caller can put right: a bad or missing file, an option out of range, a device that is not there, a model
/// whose numbers overflow while it generates.
/// The message is one line: what is wrong, where, what to do.
/// </summary>
public sealed class LayerSkipException : Exception
{
    /// <summary>An exception of one fault.</summary>
    /// <param name="code">What kind of fault it is.</param>
    /// <param name="message">One line: what is wrong, where, what to do.</param>
    /// <param name="optionName">The option at fault, where one is.</param>
    /// <param name="innerException">What led to it.</param>
    public LayerSkipException(
        LayerSkipErrorCode code, string message, string? optionName = null, Exception? innerException = null)
        : base(message, innerException) =>
        Faults = [new() { Code = code, Message = message, OptionName = optionName }];

    internal LayerSkipException(LayerSkip.LayerSkipException inner)
        : this(inner.InnerException, [.. inner.Errors.Select(CallersWords.Of)])
    {
    }

    // The library's own says no more than this one; what led to it may.
    private LayerSkipException(Exception? inner, IReadOnlyList<LayerSkipError> errors)
        : base(LayerSkipErrorModule.summary(ListModule.OfSeq(errors)), inner) =>
        Faults = [.. errors.Select(CallersWords.Fault)];

    /// <summary>What kind of fault the first one is.</summary>
    public LayerSkipErrorCode Code => Faults[0].Code;

    /// <summary>The first option that is at fault, as C# spells it ("ExitLayer"); null where none is.</summary>
    public string? OptionName => Faults.Select(fault => fault.OptionName).FirstOrDefault(name => name is not null);

    /// <summary>Every fault that was found; at least one.</summary>
    public IReadOnlyList<LayerSkipFault> Faults { get; }
}
