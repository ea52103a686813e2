namespace LayerSkip.CSharp;

/// <summary>What kind of fault a <see cref="LayerSkipException"/> tells of. Later versions may add members.</summary>
public enum LayerSkipErrorCode
{
    /// <summary>Something that none of the other members names.</summary>
    Other,

    /// <summary>A file or folder is not there.</summary>
    FileNotFound,

    /// <summary>A file is there and cannot be used: damaged, of another form, for another model.</summary>
    BadFile,

    /// <summary>A file or folder could not be written to its end.</summary>
    FileNotWritten,

    /// <summary>Weights that do not fit the model's configuration, or hold numbers that no model can have.</summary>
    BadWeights,

    /// <summary>A model, a format or a combination of options that this library does not do.</summary>
    Unsupported,

    /// <summary>An option is outside its range; <see cref="LayerSkipFault.OptionName"/> names it.</summary>
    OptionOutOfRange,

    /// <summary>The prompt fills the context, and leaves no room for a token more.</summary>
    ContextFull,

    /// <summary>The prompt has no tokens.</summary>
    EmptyPrompt,

    /// <summary>A token id outside the vocabulary.</summary>
    UnknownToken,

    /// <summary>Text was given or asked for, and the model has no tokenizer.</summary>
    NoTokenizer,

    /// <summary>A chat, and the model has no chat template.</summary>
    NoChatTemplate,

    /// <summary>A chat that the model's chat template refuses, or whose tools it has no place for; a chat without a message.</summary>
    ChatRefused,

    /// <summary>A model that a hub has not, or not for this user.</summary>
    NotOnHub,

    /// <summary>A model that did not come from a hub, and may when it is tried again.</summary>
    HubFailed,

    /// <summary>There is no such device, or it does not open.</summary>
    DeviceMissing,

    /// <summary>libtorch could not be loaded.</summary>
    BackendMissing,

    /// <summary>Memory that the system has not.</summary>
    OutOfMemory,

    /// <summary>The model's numbers overflowed while it computed.</summary>
    NumbersOverflow,

    /// <summary>A constraint lets no token follow, and the text may not end there.</summary>
    NothingAllowed,

    /// <summary>There is no text to learn from.</summary>
    NoText,

    /// <summary>The processes of a parallel run cannot be joined.</summary>
    RanksNotJoined,

    /// <summary>A step of training went wrong: its loss is no number, or jumped and stayed up.</summary>
    TrainingFailed,

    /// <summary>As many requests wait as may wait.</summary>
    Busy,
}
